#include "backends/cpu/linear/linear.h"

#include <algorithm>

#include "backends/cpu/linear/linear_task.h"
#include "core/error.h"
#include "core/parallel.h"

namespace tinyllm::cpu {

namespace {

// Shares of threads are multiples of this many outputs, so that none is too small to be worth a thread.
constexpr int64_t kOutputGrain = 16;

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

void run_task(CpuIsa isa, const LinearTask& task) {
    switch (isa) {
#if defined(__x86_64__)
        case CpuIsa::Avx512:
            return linear_task_avx512(task);
        case CpuIsa::Avx2:
            return linear_task_avx2(task);
#endif
        default:
            return linear_task_portable(task);
    }
}

int64_t output_element_size(const LinearTask& task) {
    return task.out.kind == LinearOutput::Kind::StoreFloat ? 4 : static_cast<int64_t>(dtype_size(task.activation));
}

// Makes a task of all rows one of rows [begin, end).
void narrow_rows(LinearTask& task, int64_t begin, int64_t end) {
    const int64_t row_bytes = task.weight->k * static_cast<int64_t>(dtype_size(task.activation));
    task.x = static_cast<const char*>(task.x) + begin * row_bytes;
    task.out.data = static_cast<char*>(task.out.data) + begin * task.out.row_stride * output_element_size(task);
    task.rows = end - begin;
}

}  // namespace

int64_t linear_scratch_bytes(int64_t max_k) {
    return num_threads() * round_up(task_scratch_floats(max_k), kInputAlign) * static_cast<int64_t>(sizeof(float));
}

void linear(CpuIsa isa, DType activation, const LinearWeight& weight, const void* x, int64_t rows,
            const LinearOutput& out, const LinearScratch& scratch) {
    TL_CHECK(weight.quantization == QuantizationType::W8A16 || weight.dtype == activation);
    TL_CHECK(weight.quantization == QuantizationType::NONE || weight.group_length % kInputAlign == 0 ||
             weight.group_length >= weight.k);
    TL_CHECK(out.kind != LinearOutput::Kind::SiluMul || weight.n % 2 == 0);
    TL_CHECK(scratch.bytes >= linear_scratch_bytes(weight.k));
    if (rows == 0) return;
    const int64_t n = weight.n;
    const auto whole = [&](int thread) {
        const int64_t floats = round_up(task_scratch_floats(weight.k), kInputAlign);
        return LinearTask{&weight, activation, x, rows, 0, n, out, static_cast<float*>(scratch.data) + thread * floats};
    };
    if (rows <= kDirectRows) {
        parallel_for(n, kOutputGrain, [&](int thread, int64_t begin, int64_t end) {
            LinearTask task = whole(thread);
            task.n_begin = begin;
            task.n_end = end;
            run_task(isa, task);
        });
        return;
    }
    // Each task is a panel of outputs and a block of rows; the row blocks of a panel follow each other.
    const int64_t row_blocks = (rows + kTaskRows - 1) / kTaskRows;
    const int64_t block_rows = round_up((rows + row_blocks - 1) / row_blocks, kMaxTileRows);
    const int64_t panels = (n + kPanelOutputs - 1) / kPanelOutputs;
    parallel_for_each(panels * row_blocks, [&](int thread, int64_t i) {
        const int64_t first_row = i % row_blocks * block_rows;
        if (first_row >= rows) return;
        LinearTask task = whole(thread);
        task.n_begin = i / row_blocks * kPanelOutputs;
        task.n_end = std::min(n, task.n_begin + kPanelOutputs);
        narrow_rows(task, first_row, std::min(rows, first_row + block_rows));
        run_task(isa, task);
    });
}

}  // namespace tinyllm::cpu
