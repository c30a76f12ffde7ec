"""Small random models with transformers' logits, written to tests/data by tools/make_reference.py.

cases.py        the table: which models exist and what each is there to show
weights.py      random weights that make every feature visible in the logits
oracle.py       transformers in float32: logits and greedy continuations
hf_files.py     a Hugging Face directory, as save_pretrained writes it
gguf_files.py   a GGUF file, as llama.cpp's converter writes it, and its weights read back
tokenizer.py    the byte-level BPE tokenizer that some of the models carry
sensitivity.py  what the logits would be with a feature ignored: proof that a test would notice
"""
