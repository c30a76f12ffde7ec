// Sixteen floats that are computed together, for host loops over weights that must give the same bits on every
// machine: a sum keeps one partial sum per lane, whatever the width of the registers that hold them.
#pragma once

#include <cstdint>
#include <cstring>

namespace tinyllm {

constexpr int64_t kLanes = 16;
// A vector extension of GCC and Clang: operators work lane by lane, on whatever registers the target has.
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

// Functions so marked are compiled for several instruction sets, and the loader of the library picks one. Not where
// sanitizers run: their runtime is not up yet when the loader picks.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TL_TARGET_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TL_TARGET_CLONES
#endif

// Length of `count` values padded to whole Lanes.
constexpr int64_t padded_to_lanes(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// The sum of the lanes, always in the same order.
inline float sum_of_lanes(const float (&lanes)[kLanes]) {
    float sum = 0;
    for (const float lane : lanes) sum += lane;
    return sum;
}

}  // namespace tinyllm
