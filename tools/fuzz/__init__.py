"""Fuzzing of the checkpoint readers: `python -m fuzz --help` with tools/ in PYTHONPATH, or tools/fuzz.sh for hours.

trees.py reads GGUF and safetensors files into trees that can be changed and written again however wrong they are,
mutate.py changes them, corpus.py holds what was found before, check.py says what a reader may do, __main__.py runs it.
"""
