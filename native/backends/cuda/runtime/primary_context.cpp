#include "backends/cuda/runtime/primary_context.h"

#include "backends/cuda/runtime/cuda_check.h"
#include "backends/cuda/runtime/driver_function.h"
#include "backends/cuda/runtime/process_exit.h"

namespace tinyllm::cuda {

namespace {

struct ContextFunctions {
    CUresult (*retain)(CUcontext*, CUdevice) = driver_function<decltype(retain)>("cuDevicePrimaryCtxRetain");
    CUresult (*release)(CUdevice) = driver_function<decltype(release)>("cuDevicePrimaryCtxRelease");
    CUresult (*state)(CUdevice, unsigned*, int*) = driver_function<decltype(state)>("cuDevicePrimaryCtxGetState");
    CUresult (*current)(CUcontext*) = driver_function<decltype(current)>("cuCtxGetCurrent");
    CUresult (*push)(CUcontext) = driver_function<decltype(push)>("cuCtxPushCurrent");
    CUresult (*pop)(CUcontext*) = driver_function<decltype(pop)>("cuCtxPopCurrent");
};

const ContextFunctions& functions() {
    static const ContextFunctions loaded;
    return loaded;
}

}  // namespace

PrimaryContext::PrimaryContext(int device) : device_(device) { TL_DRIVER_CHECK(functions().retain(&context_, device)); }

PrimaryContext::~PrimaryContext() {
    if (!process_is_exiting()) functions().release(device_);
}

bool PrimaryContext::exists(int device) {
    unsigned flags = 0;
    int active = 0;
    return functions().state(device, &flags, &active) == CUDA_SUCCESS && active != 0;
}

CurrentContext::CurrentContext(CUcontext context) {
    CUcontext current = nullptr;
    TL_DRIVER_CHECK(functions().current(&current));
    if (current == context) return;
    TL_DRIVER_CHECK(functions().push(context));
    pushed_ = true;
}

CurrentContext::~CurrentContext() {
    if (!pushed_ || process_is_exiting()) return;
    CUcontext popped = nullptr;
    functions().pop(&popped);  // of a broken context, too
}

}  // namespace tinyllm::cuda
