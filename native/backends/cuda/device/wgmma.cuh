// Warpgroup matrix multiply, wgmma m64nNk16 with fp32 accumulation (compute capability 9.0a). A comes from registers, B
// from shared memory.
//
// The four warps of a warpgroup own 16 rows of A and D each; within them a lane holds of A what mma.cuh says of
// m16n8k16, and d[4j .. 4j + 3] is the C of its column tile j. The instructions run asynchronously: between the first
// one and wait_for_wgmma() nothing may touch d, and the compiler has to keep the registers of A as they are.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace tinyllm::cuda {

// Orders earlier writes of registers before the wgmma that follow.
__device__ inline void begin_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes the group of wgmma issued so far.
__device__ inline void commit_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until all but the last kPending groups are done.
template <int kPending>
__device__ void wait_for_wgmma() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The same; `d` is named so that no use of it moves before the wait.
template <int kPending, int kCount>
__device__ void wait_for_wgmma(float (&d)[kCount]) {
    wait_for_wgmma<kPending>();
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Describes a tile of B: rows (columns of B) of 64 elements of 16 bits, 128 bytes each, with the 128-byte swizzle, at a
// multiple of 1024 bytes. Adding 2 moves on by 16 elements. Fields as in the PTX manual, "matrix descriptor": address
// and distance of 8-row groups in units of 16 bytes.
__device__ inline uint64_t wgmma_tile(uint32_t address) {
    constexpr uint64_t kGroupBytes = 8 * 128, kSwizzle128 = 1;
    return (address & 0x3ffff) >> 4 | uint64_t{1} << 16 | (kGroupBytes >> 4) << 32 | kSwizzle128 << 62;
}

#define TL_WGMMA_SUMS_16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define TL_WGMMA_SUMS_32 TL_WGMMA_SUMS_16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define TL_WGMMA_SUMS_64 \
    TL_WGMMA_SUMS_32 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TL_WGMMA_SUMS_128                                                                \
    TL_WGMMA_SUMS_64                                                                     \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TL_WGMMA_SUMS_256                                                                          \
    TL_WGMMA_SUMS_128                                                                              \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "           \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define TL_SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TL_SUMS_16(d, i) TL_SUMS_4(d, i), TL_SUMS_4(d, i + 4), TL_SUMS_4(d, i + 8), TL_SUMS_4(d, i + 12)
#define TL_OPERANDS_16(d) TL_SUMS_4(d, 0), TL_SUMS_4(d, 4)
#define TL_OPERANDS_32(d) TL_SUMS_16(d, 0)
#define TL_OPERANDS_64(d) TL_SUMS_16(d, 0), TL_SUMS_16(d, 16)
#define TL_OPERANDS_128(d) TL_OPERANDS_64(d), TL_SUMS_16(d, 32), TL_SUMS_16(d, 48)
#define TL_OPERANDS_256(d) \
    TL_OPERANDS_128(d), TL_SUMS_16(d, 64), TL_SUMS_16(d, 80), TL_SUMS_16(d, 96), TL_SUMS_16(d, 112)

// The numbers of the operands that follow the sums: A, B, and whether to add.
#define TL_WGMMA_ADDS_16 "%13"
#define TL_WGMMA_ADDS_32 "%21"
#define TL_WGMMA_ADDS_64 "%37"
#define TL_WGMMA_ADDS_128 "%69"
#define TL_WGMMA_ADDS_256 "%133"
#define TL_WGMMA_INPUTS_16 "{%8, %9, %10, %11}, %12"
#define TL_WGMMA_INPUTS_32 "{%16, %17, %18, %19}, %20"
#define TL_WGMMA_INPUTS_64 "{%32, %33, %34, %35}, %36"
#define TL_WGMMA_INPUTS_128 "{%64, %65, %66, %67}, %68"
#define TL_WGMMA_INPUTS_256 "{%128, %129, %130, %131}, %132"

#define TL_DEFINE_WGMMA(T, NAME, N)                                                                        \
    template <>                                                                                            \
    __device__ inline void wgmma<T, N>(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool adds) { \
        asm volatile(                                                                                      \
            "{\n\t"                                                                                        \
            ".reg .pred adds;\n\t"                                                                         \
            "setp.ne.b32 adds, " TL_WGMMA_ADDS_##N                                                         \
            ", 0;\n\t"                                                                                     \
            "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" TL_WGMMA_SUMS_##N         \
            "}, " TL_WGMMA_INPUTS_##N                                                                      \
            ", adds, 1, 1, 0;\n\t"                                                                         \
            "}"                                                                                            \
            : TL_OPERANDS_##N(d)                                                                           \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)));            \
    }
#define TL_DEFINE_WGMMAS(N)           \
    TL_DEFINE_WGMMA(__half, "f16", N) \
    TL_DEFINE_WGMMA(__nv_bfloat16, "bf16", N)

// d += a b, or d = a b without `adds`: D [64, kN], A [64, 16], B [16, kN] of T (__half or __nv_bfloat16).
template <typename T, int kN>
__device__ void wgmma(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b, bool adds = true);

TL_DEFINE_WGMMAS(16)
TL_DEFINE_WGMMAS(32)
TL_DEFINE_WGMMAS(64)
TL_DEFINE_WGMMAS(128)
TL_DEFINE_WGMMAS(256)

#undef TL_DEFINE_WGMMAS
#undef TL_DEFINE_WGMMA
#undef TL_WGMMA_INPUTS_256
#undef TL_WGMMA_INPUTS_128
#undef TL_WGMMA_INPUTS_64
#undef TL_WGMMA_INPUTS_32
#undef TL_WGMMA_INPUTS_16
#undef TL_WGMMA_ADDS_256
#undef TL_WGMMA_ADDS_128
#undef TL_WGMMA_ADDS_64
#undef TL_WGMMA_ADDS_32
#undef TL_WGMMA_ADDS_16
#undef TL_OPERANDS_256
#undef TL_OPERANDS_128
#undef TL_OPERANDS_64
#undef TL_OPERANDS_32
#undef TL_OPERANDS_16
#undef TL_SUMS_16
#undef TL_SUMS_4
#undef TL_WGMMA_SUMS_256
#undef TL_WGMMA_SUMS_128
#undef TL_WGMMA_SUMS_64
#undef TL_WGMMA_SUMS_32
#undef TL_WGMMA_SUMS_16

}  // namespace tinyllm::cuda
