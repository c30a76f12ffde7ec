"""tinyllm: decoder-only language models with int8 weights and 16-bit activations, on NVIDIA GPUs and CPUs.

import tinyllm
with tinyllm.load("model.gguf") as model:
    print(model.generate("The capital of France is", max_new_tokens=16).text)
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from .api import *  # noqa: F403
    from .api import __version__ as __version__
else:

    def __getattr__(name: str) -> object:
        """What api.py has, and the modules of this package, when one of them is first asked for.

        Importing them all takes a third of a second, most of it for NumPy. The command `tinyllm` begins before that,
        so that an interrupt then is answered as it is later.
        """
        if name in ("__all__", "__version__") or not name.startswith("_"):
            api = _importlib.import_module(".api", __name__)
            globals().update({public: getattr(api, public) for public in (*api.__all__, "__all__", "__version__")})
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # Without the modules of the package, which are attributes of it whether they are public or not.
    names = _importlib.import_module(".api", __name__).__all__
    return sorted({*names, "__all__", "__version__", *(name for name in globals() if name.startswith("__"))})
