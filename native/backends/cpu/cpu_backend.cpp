// Memory of the CPU backend, and the ops that are a norm and a linear layer. Loading and the other ops have files of
// their own.
#include "backends/cpu/cpu_backend.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "backends/cpu/attention/attention.h"
#include "backends/cpu/rows/norm.h"
#include "backends/cpu/sampling/sample.h"
#include "config/engine_config.h"
#include "core/error.h"
#include "core/host.h"
#include "core/parallel.h"

namespace tinyllm::cpu {

namespace {

// Free is what the system can still give, less what this process's engines have been given and not written yet.
DeviceMemory memory_now() {
    const HostMemory memory = host_memory();
    return {memory.free_bytes - std::min(memory.free_bytes, untouched_host_bytes()), memory.total_bytes};
}

}  // namespace

AllocationPtr CpuBackend::allocate(MemoryTracker& tracker, Component component, size_t bytes, const std::string& name,
                                   std::source_location where) {
    return std::make_unique<HostBuffer>(tracker, component, bytes, name, where);
}

void CpuBackend::upload(void* target, const void* source, size_t bytes) { std::memcpy(target, source, bytes); }

void CpuBackend::download(void* target, const void* source, size_t bytes) { std::memcpy(target, source, bytes); }

void CpuBackend::fill_zero(void* target, size_t bytes) { std::memset(target, 0, bytes); }

DeviceMemory CpuBackend::device_memory() const { return memory_now(); }

void CpuBackend::bind_scratch(void* data, size_t bytes) {
    scratch_ = data;
    scratch_bytes_ = static_cast<int64_t>(bytes);
}

void* CpuBackend::scratch(int64_t bytes) const {
    TL_CHECK(bytes <= scratch_bytes_);
    return scratch_;
}

void CpuBackend::run_step(const StepKey&, const std::function<void()>& body) { body(); }

void CpuBackend::run_linear(const StepBatch& batch, const LinearWeight& weight, const void* x, int64_t rows,
                            const LinearOutput& out) {
    const int64_t bytes = linear_scratch_bytes(weight.k);
    linear(isa_, batch.dtype, weight, x, rows, out, {scratch(bytes), bytes});
}

void CpuBackend::linear_residual(const StepBatch& batch, const LinearWeight& weight, const void* x, void* hidden) {
    run_linear(batch, weight, x, batch.num_rows, {LinearOutput::Kind::AddTo, hidden, weight.n});
}

void CpuBackend::gate_up(const StepBatch& batch, const NormWeight& norm, const LinearWeight& gate_up,
                         const void* hidden, void* normed, void* out) {
    rms_norm_rows(kernels_, batch.dtype, norm, hidden, nullptr, batch.num_rows, gate_up.k, normed);
    run_linear(batch, gate_up, normed, batch.num_rows, {LinearOutput::Kind::SiluMul, out, gate_up.n / 2});
}

void CpuBackend::logits(const StepBatch& batch, const NormWeight& norm, const LinearWeight& head, const void* hidden,
                        void* normed, float* logits) {
    rms_norm_rows(kernels_, batch.dtype, norm, hidden, batch.logits_rows, batch.num_logits, head.k, normed);
    run_linear(batch, head, normed, batch.num_logits, {LinearOutput::Kind::StoreFloat, logits, head.n});
}

std::unique_ptr<Backend> make_backend() {
    static_cast<void>(num_threads());  // throws where TINYLLM_NUM_THREADS is wrong: better here than in a step
    return std::make_unique<CpuBackend>(detected_isa());
}

namespace {

// "model name" of the first processor; what the kernel calls its machine where it says nothing more (arm64).
std::string processor_name() {
    std::ifstream file("/proc/cpuinfo");
    std::string line;
    while (std::getline(file, line)) {
        const size_t colon = line.find(": ");
        if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
    }
    return "CPU";
}

template <size_t Size>
void set_text(char (&target)[Size], const std::string& text) {
    const size_t length = std::min(text.size(), Size - 1);
    std::memcpy(target, text.data(), length);
    target[length] = '\0';
}

}  // namespace

tl_device_info device_info() {
    tl_device_info info{};
    info.struct_size = sizeof info;
    info.device_kind = TL_DEVICE_CPU;
    set_text(info.name, processor_name());
    const DeviceMemory memory = memory_now();
    info.free_bytes = memory.free_bytes;
    info.total_bytes = memory.total_bytes;
    try {
        info.num_units = num_threads();
        set_text(info.description,
                 concat(isa_name(detected_isa()), ", ", info.num_units, info.num_units == 1 ? " thread" : " threads"));
        info.usable = 1;
    } catch (const Error& e) {
        set_text(info.description, e.what());
    }
    return info;
}

int64_t scratch_bytes(const ModelShapes& model, const KVCacheConfig& kv_cache) {
    // The ops run one after another, so they share the scratch.
    return std::max({attention_scratch_bytes(model, kv_cache),
                     sample_scratch_bytes(model.vocab_size, kv_cache.max_batch_size),
                     linear_scratch_bytes(model.largest_k())});
}

}  // namespace tinyllm::cpu
