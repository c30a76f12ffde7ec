#!/bin/sh
# Fuzzes the checkpoint readers for hours: tools/fuzz.sh [SECONDS [FIRST_SEED]]. Give each run a first seed of its own.
# TINYLLM_LIBRARY names the library, a build with sanitizers for example. A finding is made again, and its files are
# kept, by: PYTHONPATH=python:tools python3 -m fuzz --run --tokenizer --seed SEED
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/python:$PWD/tools${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m fuzz --run --tokenizer --seconds "${1:-14400}" --first-seed "${2:-1000000}"
