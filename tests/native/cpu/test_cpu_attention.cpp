// The attention op of the CPU backend: against double precision, and for the same bits however rows are batched.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "backends/cpu/attention/attention.h"
#include "backends/cpu/cpu_backend.h"
#include "check.h"
#include "config/engine_config.h"
#include "cpu/cpu_cases.h"
#include "ops/kv_cache.h"
#include "tolerances.h"

using namespace tinyllm;
using namespace tinyllm::cpu;
using namespace tinyllm::test;

namespace {

// Uneven shares of work. Before the first loop.
const int g_environment = setenv("TINYLLM_NUM_THREADS", "3", 1);

struct Row {
    int32_t slot;  // -1: padding
    int32_t position;
};

std::vector<Row> rows_of(int32_t slot, int32_t begin, int32_t end) {
    std::vector<Row> rows;
    for (int32_t p = begin; p < end; ++p) rows.push_back({slot, p});
    return rows;
}

// Sequences in a paged cache whose pages lie in no order. Queries of a (slot, position) are the same in every step.
struct Scene {
    static constexpr int32_t kLoadBlocks = 3, kPagesPerSeq = 11;
    static constexpr int32_t kLength = kPagesPerSeq * kPageTokens;

    DType dtype;
    AttentionShape shape;
    std::vector<int32_t> block_table;
    Array kv;

    Scene(DType type, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t window)
        : dtype(type),
          shape{heads, kv_heads, head_dim, window, 1.0f / std::sqrt(static_cast<float>(head_dim))},
          block_table(kLoadBlocks * kPagesPerSeq),
          kv(type, random_floats(kv_layer_elements(kLoadBlocks * kPagesPerSeq, kv_heads, head_dim), 1)) {
        std::iota(block_table.begin(), block_table.end(), 0);
        std::shuffle(block_table.begin(), block_table.end(), std::mt19937(2));
    }

    int64_t kv_index(int32_t slot, int32_t position, int32_t which, int32_t kv_head) const {
        const int32_t page = block_table[slot * kPagesPerSeq + position / kPageTokens];
        return kv_tile_offset(page, which, kv_head, shape.num_kv_heads, shape.head_dim) +
               position % kPageTokens * shape.head_dim;
    }

    // What no row of a step may see.
    void poison_after(int32_t slot, int32_t position) {
        for (int32_t p = position + 1; p < kLength; ++p)
            for (int32_t which = 0; which < 2; ++which)
                for (int32_t h = 0; h < shape.num_kv_heads; ++h)
                    for (int32_t d = 0; d < shape.head_dim; ++d)
                        kv.set(kv_index(slot, p, which, h) + d, std::numeric_limits<float>::quiet_NaN());
    }

    std::vector<float> query(Row row) const {
        return random_floats(shape.num_heads * shape.head_dim, 100 + row.slot * kLength + row.position, 2.0f);
    }

    // T [rows, num_heads * head_dim]; every element that the op does not write keeps 7.
    Array run(CpuIsa isa, Phase phase, const std::vector<Row>& rows) {
        const int64_t count = static_cast<int64_t>(rows.size()), out_dim = shape.num_heads * shape.head_dim;
        std::vector<int32_t> slots, positions;
        std::vector<float> qkv(count * shape.qkv_dim(), std::numeric_limits<float>::quiet_NaN());
        int32_t longest = 0;
        for (int64_t i = 0; i < count; ++i) {
            slots.push_back(rows[i].slot);
            positions.push_back(rows[i].position);
            longest = std::max(longest, rows[i].position + 1);
            const std::vector<float> q = query(rows[i]);
            std::copy(q.begin(), q.end(), qkv.begin() + i * shape.qkv_dim());
        }
        const Array qkv_t(dtype, qkv);
        Array out(dtype, std::vector<float>(count * out_dim, 7.0f));
        StepBatch batch;
        batch.phase = phase;
        batch.dtype = dtype;
        batch.num_rows = static_cast<int32_t>(count);
        batch.max_kv_len = longest;
        batch.positions = positions.data();
        batch.slots = slots.data();
        batch.block_table = block_table.data();
        batch.pages_per_seq = kPagesPerSeq;

        const KVCacheConfig kv_cache{std::max(kLoadBlocks, phase == Phase::Decode ? batch.num_rows : 1), kLength};
        std::vector<float> scratch(attention_scratch_bytes({{}, {shape}, 0}, kv_cache) / 4,
                                   std::numeric_limits<float>::quiet_NaN());
        CpuBackend backend(isa);
        backend.bind_scratch(scratch.data(), scratch.size() * 4);
        backend.attention(batch, shape, qkv_t.data(), {kv.data()}, out.data());
        return out;
    }

    // One head of one row in double.
    std::vector<double> expected(Row row, int32_t head) const {
        const int32_t kv_head = head / shape.q_per_kv(), dim = shape.head_dim;
        const Array q(dtype, query(row));
        const int32_t first = shape.window > 0 ? std::max(0, row.position - shape.window + 1) : 0;
        std::vector<double> scores, out(dim);
        for (int32_t p = first; p <= row.position; ++p) {
            double dot = 0;
            for (int32_t d = 0; d < dim; ++d)
                dot += static_cast<double>(q.at(head * dim + d)) * kv.at(kv_index(row.slot, p, 0, kv_head) + d);
            scores.push_back(dot * shape.softmax_scale);
        }
        const double max = *std::max_element(scores.begin(), scores.end());
        double sum = 0;
        for (double& s : scores) sum += s = std::exp(s - max);
        for (int32_t p = first; p <= row.position; ++p)
            for (int32_t d = 0; d < dim; ++d)
                out[d] += scores[p - first] / sum * kv.at(kv_index(row.slot, p, 1, kv_head) + d);
        return out;
    }

    void check_rows(const Array& out, const std::vector<Row>& rows) const {
        const int32_t dim = shape.head_dim;
        for (size_t r = 0; r < rows.size(); ++r) {
            for (int32_t head = 0; head < shape.num_heads; ++head) {
                const int64_t start = (static_cast<int64_t>(r) * shape.num_heads + head) * dim;
                if (rows[r].slot < 0) {
                    for (int32_t d = 0; d < dim; ++d) CHECK(out.at(start + d) == 7.0f);
                    continue;
                }
                const std::vector<double> want = expected(rows[r], head);
                for (int32_t d = 0; d < dim; ++d) CHECK_CLOSE(out.at(start + d), want[d], rounded_once(dtype));
            }
        }
    }
};

struct ShapeCase {
    int32_t heads, kv_heads, head_dim, window;
};
constexpr ShapeCase kShapes[] = {
    {9, 3, 64, 0},    // SmolLM2
    {4, 4, 80, 0},    // multi-head, head_dim no multiple of a vector
    {6, 2, 36, 0},    // nor of half a vector
    {8, 1, 128, 0},   // multi-query
    {2, 1, 7, 0},     // smaller than a vector
    {4, 2, 64, 1},    // window: the row itself
    {4, 2, 64, 70},   // window across pages
    {4, 2, 64, 300},  // across splits
};

template <typename F>
void for_scenes(const F& body) {
    for (CpuIsa isa : available_isas())
        for (DType dtype : kActivations)
            for (const ShapeCase& c : kShapes) body(isa, Scene(dtype, c.heads, c.kv_heads, c.head_dim, c.window));
}

// Each row of `some` is, bit by bit, the row of the same slot and position in `all`.
void check_same_rows(const Array& some, const std::vector<Row>& some_rows, const Array& all,
                     const std::vector<Row>& all_rows, int64_t dim) {
    for (size_t i = 0; i < some_rows.size(); ++i) {
        for (size_t j = 0; j < all_rows.size(); ++j) {
            if (some_rows[i].slot != all_rows[j].slot || some_rows[i].position != all_rows[j].position) continue;
            for (int64_t d = 0; d < dim; ++d) {
                const float a = some.at(static_cast<int64_t>(i) * dim + d),
                            b = all.at(static_cast<int64_t>(j) * dim + d);
                CHECK(std::memcmp(&a, &b, sizeof a) == 0);
            }
        }
    }
}

}  // namespace

TEST(prefill_matches_double_precision) {
    for_scenes([](CpuIsa isa, Scene scene) {
        std::vector<Row> rows = rows_of(0, 500, 530);
        rows.push_back({-1, 0});
        for (Row row : rows_of(2, 0, 5)) rows.push_back(row);
        scene.poison_after(0, 529);
        scene.poison_after(2, 4);
        scene.check_rows(scene.run(isa, Phase::Prefill, rows), rows);
    });
}

TEST(decode_matches_double_precision) {
    for_scenes([](CpuIsa isa, Scene scene) {
        const std::vector<Row> rows = {{1, 600}, {-1, 0}, {2, 63}, {0, 0}};
        for (Row row : rows)
            if (row.slot >= 0) scene.poison_after(row.slot, row.position);
        scene.check_rows(scene.run(isa, Phase::Decode, rows), rows);
    });
}

// Decode, whole prompt, chunks, beside other sequences: a row's bits never change.
TEST(a_row_has_the_same_bits_in_any_company) {
    for_scenes([](CpuIsa isa, Scene scene) {
        const int64_t dim = scene.shape.num_heads * scene.shape.head_dim;
        std::vector<Row> whole = rows_of(0, 0, 330);
        const Array all = scene.run(isa, Phase::Prefill, whole);
        for (const auto& part : {rows_of(0, 0, 1), rows_of(0, 255, 258), rows_of(0, 100, 330)})
            check_same_rows(scene.run(isa, Phase::Prefill, part), part, all, whole, dim);
        std::vector<Row> mixed = rows_of(1, 17, 40);
        for (Row row : rows_of(0, 290, 330)) mixed.push_back(row);
        check_same_rows(scene.run(isa, Phase::Prefill, mixed), mixed, all, whole, dim);
        const std::vector<Row> decode = {{2, 700}, {0, 329}, {1, 5}};
        check_same_rows(scene.run(isa, Phase::Decode, decode), decode, all, whole, dim);
        for (int32_t position : {0, 63, 64, 255, 256}) {
            const std::vector<Row> one = {{0, position}};
            check_same_rows(scene.run(isa, Phase::Decode, one), one, all, whole, dim);
        }
    });
}

// Infinities in later tokens of the same page must not reach earlier rows of the step either.
TEST(a_row_never_touches_later_tokens) {
    for (CpuIsa isa : available_isas()) {
        Scene scene(DType::F16, 4, 2, 64, 0);
        const std::vector<Row> rows = rows_of(0, 60, 70);
        scene.poison_after(0, 64);
        const Array out = scene.run(isa, Phase::Prefill, rows);
        const std::vector<Row> clean = rows_of(0, 60, 65);
        scene.check_rows(out, clean);
        const int64_t dim = scene.shape.num_heads * scene.shape.head_dim;
        CHECK(std::isnan(out.at(5 * dim)));
    }
}

TEST_MAIN()
