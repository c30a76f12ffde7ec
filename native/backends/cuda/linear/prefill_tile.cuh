// What the two prefill kernels share: how a warp reads its weights from a tile in shared memory, and what it does with
// the scales of the groups.
//
// The weights are the A operand (16 weight rows of a warp x 16 inputs), x is the B operand (tokens). A lane holds the
// fragment rows g and g + 8, g = lane / 4. They stand for the weight rows 2g and 2g + 1, so that a lane's sums are
// neighbouring outputs (a gate and its up) which it can store side by side; odd g hold them in the opposite order, so
// that the 16-byte reads of eight lanes touch all 32 banks.
#pragma once

#include "backends/cuda/device/dequantize.cuh"
#include "backends/cuda/device/packed_weight.cuh"

namespace tinyllm::cuda {

constexpr int kBlockInputs = 64;  // inputs of a pipeline stage: one block of the packed order
constexpr int kHalfInputs = 32;   // two k16 steps; the shortest group

// One lane's weights of a block, from a tile of rows of kRowBytes in shared memory. 16-bit tiles are swizzled: 16-byte
// vector c of row r lies at vector c ^ (r % 8), as the 128-byte swizzle of TMA puts it.
template <typename T, bool kQuantized>
class WeightReader {
public:
    static constexpr int kRowBytes = kBlockInputs * (kQuantized ? 1 : 2);

    // `warp_row`: first of the warp's 16 rows in the tile.
    __device__ WeightReader(int warp_row, int lane) {
        const int g = lane / 4;
        first_row_ = warp_row + 2 * g + g % 2;
        thread_ = lane % 4;
    }

    // A fragments of the block's four k16 steps; `tile`: address in shared memory.
    __device__ void fragments(uint32_t tile, uint32_t (&a)[4][4]) const {
        uint32_t words[2][kRowBytes / 16];  // of rows g and g + 8
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = first_row_ ^ i;
#pragma unroll
            for (int vector = 0; vector < kVectors; ++vector) {
                const int place = kQuantized ? thread_ : (kVectors * thread_ + vector) ^ (row % 8);
                read(tile + row * kRowBytes + place * 16, words[i] + 4 * vector);
            }
        }
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            if constexpr (kQuantized) {
                int8_to_float16<T>(words[0][step], a[step][0], a[step][2]);
                int8_to_float16<T>(words[1][step], a[step][1], a[step][3]);
            } else {
                a[step][0] = words[0][2 * step];
                a[step][1] = words[1][2 * step];
                a[step][2] = words[0][2 * step + 1];
                a[step][3] = words[1][2 * step + 1];
            }
        }
    }

private:
    static constexpr int kVectors = kRowBytes / 64;  // of a lane and row, 16 bytes each

    static __device__ void read(uint32_t address, uint32_t* words) {
        asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                     : "r"(address)
                     : "memory");
    }

    int first_row_, thread_;
};

// The scales of a lane's two fragment rows. A scale belongs to the sum over its group; instead of a second set of
// accumulators for that, the running sum is kept in units of the current group's scale and is multiplied by old / new
// where the group changes. The int8 values enter the tensor cores exactly. With 16-bit weights this class does nothing.
template <bool kQuantized>
class GroupScales {
public:
    // `weight` must outlive this. `row`: the lane's even weight row (2g of its warp). Rows beyond the weight are
    // harmless.
    __device__ GroupScales(const PackedWeight& weight, int32_t row, int lane) : weight_(weight) {
        if constexpr (!kQuantized) return;
        swapped_ = lane / 4 % 2 == 1;
        next_ = min(row, weight.n_padded - 2);
        groups_left_ = (weight.k + weight.group_length - 1) / weight.group_length;
        left_ = group_blocks();
        fetch();
        take();
    }

    // Whether groups are shorter than a block.
    __device__ bool splits_blocks() const {
        return kQuantized && weight_.group_length == kHalfInputs && weight_.k > kHalfInputs;
    }

    // Call it before every block of inputs but the first, and before second halves if splits_blocks(). Returns true
    // where a group begins, with the factors for the sums.
    __device__ bool advance(float (&factors)[2]) {
        if (!kQuantized || --left_ != 0) return false;
        left_ = group_blocks();
        const float old0 = scale_[0], old1 = scale_[1];
        take();
        factors[0] = __fdividef(old0, scale_[0]);
        factors[1] = __fdividef(old1, scale_[1]);
        return true;
    }

    // The factor for the sums of fragment rows g and g + 8 at the end.
    __device__ float scale(int i) const { return kQuantized ? scale_[i] : 1.0f; }

private:
    // Blocks per group, or half blocks if splits_blocks(). A row that is one group may have any length and never ends.
    __device__ int32_t group_blocks() const {
        return weight_.group_length >= weight_.k ? INT32_MAX : max(weight_.group_length / kBlockInputs, 1);
    }

    // Requests the scales of the next group one group ahead of their use. Inputs that pad the row have no group of
    // their own and stay in the last one.
    __device__ void fetch() {
        fetched_ = __ldg(reinterpret_cast<const __half2*>(weight_.scales + next_));
        if (--groups_left_ > 0) next_ += weight_.n_padded;
    }

    // An all-zero group has scale 0 and adds nothing in any unit.
    __device__ void take() {
        constexpr float kSmallest = 0x1p-24f;  // of the positive f16
        const float low = fmaxf(__low2float(fetched_), kSmallest), high = fmaxf(__high2float(fetched_), kSmallest);
        scale_[0] = swapped_ ? high : low;
        scale_[1] = swapped_ ? low : high;
        fetch();
    }

    const PackedWeight& weight_;
    int32_t next_, groups_left_, left_;  // next_: index of the scales to fetch
    __half2 fetched_;
    float scale_[2];
    bool swapped_;
};

}  // namespace tinyllm::cuda
