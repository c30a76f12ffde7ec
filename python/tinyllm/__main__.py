"""`python -m tinyllm` is the command `tinyllm`."""

import sys

from .commands.main import main

sys.exit(main())
