// The epilogue of the prefill kernels: y goes from the accumulators through shared memory, so that it is written in
// whole lines.
#pragma once

#include <cstring>

#include "backends/cuda/linear/output.cuh"

namespace tinyllm::cuda {

// Where a lane's four neighbouring outputs go, token after token.
template <typename T>
class QuadOutput {
public:
    using Kind = LinearOutput::Kind;
    using Quad = Vector<T, 4>;

    // `first`: a multiple of 4.
    __device__ QuadOutput(const LinearOutput& out, const float* bias, int32_t n, int32_t first)
        : out_(out), bias_(bias), n_(n), first_(first) {
        const int stored = out.kind == Kind::SiluMul ? 2 : 4;
        const int bytes = stored * static_cast<int>(out.kind == Kind::StoreFloat ? sizeof(float) : sizeof(T));
        whole_ = first + 4 <= n && out.row_stride % stored == 0 && reinterpret_cast<uintptr_t>(out.data) % bytes == 0;
        if (whole_ && bias != nullptr) {
#pragma unroll
            for (int i = 0; i < 4; ++i) four_bias_[i] = bias[first + i];
        }
    }

    // What AddTo adds to, past L1: a predecessor may have written it while this kernel was already running.
    // PRECOND: adds().
    __device__ Quad load(int64_t token) const {
        const uint2 words = __ldcg(static_cast<const uint2*>(at<T>(token, first_)));
        Quad addend;
        memcpy(&addend, &words, sizeof addend);
        return addend;
    }

    // Whether the four are to be added to what is there. To be asked for a while before they are written.
    __device__ bool adds() const { return whole_ && out_.kind == Kind::AddTo; }

    // Whether all four exist and can be written at once.
    __device__ bool whole() const { return whole_; }

    // Writes those that exist, one pair after the other.
    __device__ void write_in_parts(int64_t token, float4 sums) const {
        const float2 pairs[2] = {{sums.x, sums.y}, {sums.z, sums.w}};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            Addend<T> addend;
            addend.read(out_, n_, token, first_ + 2 * i);
            write_outputs<T>(out_, bias_, n_, token, first_ + 2 * i, pairs[i], addend);
        }
    }

    // PRECOND: whole().
    __device__ void write(int64_t token, float4 sums, const Quad& addend) const {
        const float y[4] = {sums.x + four_bias_[0], sums.y + four_bias_[1], sums.z + four_bias_[2],
                            sums.w + four_bias_[3]};
        if (out_.kind == Kind::StoreFloat) {
            *static_cast<float4*>(at<float>(token, first_)) = make_float4(y[0], y[1], y[2], y[3]);
        } else if (out_.kind == Kind::SiluMul) {
            using Pair = Vector<T, 2>;
            *static_cast<Pair*>(at<T>(token, first_ / 2)) = {round_to<T>(silu(y[0]) * y[1]),
                                                             round_to<T>(silu(y[2]) * y[3])};
        } else {
            Quad result;
#pragma unroll
            for (int i = 0; i < 4; ++i)
                result.element[i] = round_to<T>(out_.kind == Kind::AddTo ? widen(addend.element[i]) + y[i] : y[i]);
            *static_cast<Quad*>(at<T>(token, first_)) = result;
        }
    }

private:
    template <typename Element>
    __device__ void* at(int64_t token, int32_t column) const {
        return static_cast<Element*>(out_.data) + token * out_.row_stride + column;
    }

    const LinearOutput& out_;
    const float* bias_;
    int32_t n_, first_;
    float four_bias_[4] = {};
    bool whole_;
};

// The epilogue of a team of four warps. Per round, kWidth outputs of kTokens tokens go through shared memory, and a
// short loop writes them in whole lines. Stores straight from the accumulators are so much code that fetching it takes
// as long as half the multiplication.
template <typename T, int kWidth>
class OutputStage {
public:
    static constexpr int kTokens = 32;
    static constexpr int kPitch = kWidth + 4;  // floats; a half warp's pairs touch all banks
    static constexpr int kBytes = kTokens * kPitch * 4;

    // `team`: its number in the block, for its barrier. `first_output`: of the team's kWidth.
    __device__ OutputStage(float* shared, int team, const LinearOutput& out, const float* bias, int32_t n,
                           int32_t first_output)
        : shared_(shared),
          team_(team),
          target_(out, bias, n, first_output + static_cast<int>(threadIdx.x) % kQuads * 4) {}

    // The lane's part of the m16n8 tile of outputs warp_output.. (of the team's) and tokens 8j.. (of the round).
    __device__ void put(int warp_output, int j, const float* sums, float scale0, float scale1) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        const bool swapped = g % 2 == 1;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float y0 = sums[i] * scale0, y1 = sums[i + 2] * scale1;
            float* target = shared_ + (8 * j + 2 * t + i) * kPitch + warp_output + 2 * g;
            *reinterpret_cast<float2*>(target) = swapped ? make_float2(y1, y0) : make_float2(y0, y1);
        }
    }

    // Writes kRounds x kTokens tokens from `first_token` on, as far as there are tokens; put_round(round), with a
    // constant once unrolled, puts the lane's sums of a round.
    template <int kRounds, typename PutRound>
    __device__ void write(int64_t first_token, int64_t tokens, PutRound&& put_round) {
        Addends next = {};
        load(first_token, tokens, next);
        // One copy of the code that writes: only what indexes the accumulators is unrolled.
#pragma unroll 1
        for (int round = 0; round < kRounds; ++round) {
#pragma unroll
            for (int i = 0; i < kRounds; ++i)
                if (i == round) put_round(i);
            barrier();
            const Addends addends = next;
            if (round + 1 < kRounds) load(first_token + kTokens, tokens, next);
            flush(first_token, tokens, addends);
            barrier();
            first_token += kTokens;
        }
    }

private:
    static constexpr int kTeamThreads = 128;
    static constexpr int kQuads = kWidth / 4;  // threads per token

    static constexpr int kRowsAtOnce = kTeamThreads / kQuads;
    static constexpr int kSteps = kTokens / kRowsAtOnce;  // tokens of a thread in a round

    struct Addends {
        typename QuadOutput<T>::Quad of_step[kSteps];
    };

    // The thread's first token of a round.
    static __device__ int first_step() { return threadIdx.x % kTeamThreads / kQuads; }

    // Requests what the round's results are added to.
    __device__ void load(int64_t first_token, int64_t tokens, Addends& addends) const {
        if (!target_.adds()) return;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            const int64_t token = first_token + first_step() + step * kRowsAtOnce;
            if (token < tokens) addends.of_step[step] = target_.load(token);
        }
    }

    __device__ void flush(int64_t first_token, int64_t tokens, const Addends& addends) const {
        const float* sums = shared_ + threadIdx.x % kQuads * 4;
        if (!target_.whole()) {
            for (int token = first_step(); token < kTokens && first_token + token < tokens; token += kRowsAtOnce)
                target_.write_in_parts(first_token + token, *reinterpret_cast<const float4*>(sums + token * kPitch));
            return;
        }
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            const int token = first_step() + step * kRowsAtOnce;
            if (first_token + token < tokens)
                target_.write(first_token + token, *reinterpret_cast<const float4*>(sums + token * kPitch),
                              addends.of_step[step]);
        }
    }

    // Barrier 0 is __syncthreads().
    __device__ void barrier() const { asm volatile("bar.sync %0, %1;" ::"r"(team_ + 1), "n"(kTeamThreads) : "memory"); }

    float* shared_;
    int team_;
    QuadOutput<T> target_;
};

}  // namespace tinyllm::cuda
