// The context of a GPU that the CUDA runtime uses, handled through the driver.
//
// cudaSetDevice() would do to make a GPU current, but not to undo that: it makes a context (some 500 MB) where there is
// none, so a thread that had no GPU current would be left with one on GPU 0, whichever GPU the engine uses.
#pragma once

#include <cuda.h>

namespace tinyllm::cuda {

// A device's primary context, which exists at least as long as this lives.
class PrimaryContext {
public:
    // Throws CudaError, OUT_OF_MEMORY where the device has no room for a context.
    explicit PrimaryContext(int device);
    ~PrimaryContext();
    PrimaryContext(const PrimaryContext&) = delete;
    PrimaryContext& operator=(const PrimaryContext&) = delete;

    CUcontext get() const noexcept { return context_; }

    // Whether a device has one, made by whomever.
    static bool exists(int device);

private:
    int device_;
    CUcontext context_ = nullptr;
};

// Makes a context the calling thread's current one; at the end the thread has the one it had before, or none again.
class CurrentContext {
public:
    // Throws CudaError.
    explicit CurrentContext(CUcontext context);
    ~CurrentContext();
    CurrentContext(const CurrentContext&) = delete;
    CurrentContext& operator=(const CurrentContext&) = delete;

private:
    bool pushed_ = false;
};

}  // namespace tinyllm::cuda
