// The backends of this build.
#pragma once

#include <memory>
#include <vector>

#include "config/kinds.h"
#include "ops/backend.h"
#include "ops/model_shapes.h"

namespace tinyllm {

struct KVCacheConfig;

// Opens a device. Throws Config errors for a device that does not exist, is not usable, or is not in this build.
std::unique_ptr<Backend> make_backend(DeviceKind kind, int32_t index);

// All devices, the CPU first; never throws for a machine without a GPU or driver.
std::vector<tl_device_info> list_devices();

// Scratch bytes that the kernels of a backend need for a model and its KV cache, bound with Backend::bind_scratch.
// Computed without a device, for a backend that this build lacks too.
int64_t scratch_bytes(DeviceKind kind, const ModelShapes& model, const KVCacheConfig& kv_cache);

// Buffers that data passes through on its way to and from a device, and how its memory pool grows; computed without a
// device. All sizes are bytes; 0 on the CPU, where nothing is staged, but pool_step, which is 1.
struct StagingSizes {
    uint64_t transfer = 0;    // pinned, for as long as the engine lives
    uint64_t load_block = 0;  // of weights: the device and pinned memory each hold `load_blocks` of them while loading
    uint64_t load_blocks = 0;
    uint64_t pool_step = 1;  // the pool takes memory from the driver in multiples of this
};
StagingSizes staging_sizes(DeviceKind kind);

}  // namespace tinyllm
