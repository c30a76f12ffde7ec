#!/usr/bin/env bash
# The inner loop: format, lint, types, levels, then native tests and the Python tests that are not marked slow, on a CPU
# build that is brought up to date first. Ends at the first failure. Under 90 s on two cores where the build is warm.
#
#   tools/check.sh [PYTEST ARGUMENTS]      for example tools/check.sh -k stream
#
# Needs the extras `test` and `lint`, cmake and ninja: CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/cpu-release

step() { printf '=== %s (after %d s)\n' "$1" "$SECONDS"; }

step "format"
ruff format --check .
git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror

step "lint"
ruff check .

step "types"
mypy

step "levels"
python3 tools/check_levels.py

step "build"
[[ -f $build/build.ninja ]] || cmake --preset cpu-release
cmake --build --preset cpu-release

step "native tests"
ctest --preset cpu-release --parallel "$(nproc)"

step "Python tests"
TINYLLM_LIBRARY=$build/native/libtinyllm_testing.so PYTHONPATH=python python3 -m pytest -q -rfE -n 2 -m "not slow" "$@"

step "done"
