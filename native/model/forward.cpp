#include "model/forward.h"

#include "ops/kv_cache.h"

namespace tinyllm {

ActivationBuffers::ActivationBuffers(const PlannedMemory& memory)
    : hidden(memory.at("hidden")),
      normed(memory.at("normed/attention")),
      attention(normed),
      qkv(memory.at("qkv/ffn")),
      ffn(qkv),
      rope(static_cast<float*>(memory.at("rope"))),
      logits(static_cast<float*>(memory.at("logits"))),
      seen(static_cast<uint32_t*>(memory.at("seen"))),
      sampled(static_cast<SampledToken*>(memory.at("sampled"))) {}

void forward(Ops& ops, const Model& model, const StepBatch& whole, const std::vector<StepBatch>& tiles,
             uint32_t* seen) {
    const DecoderSpec& spec = model.spec;
    const ActivationBuffers& b = model.buffers;
    const int64_t element = static_cast<int64_t>(dtype_size(spec.dtype));
    char* kv_cache = static_cast<char*>(model.kv_cache);

    ops.embed(whole, model.weights.embedding, seen, b.hidden);
    ops.rope_table(whole, model.weights.rope, b.rope);
    for (size_t i = 0; i < spec.layers.size(); ++i) {
        const LayerWeights& layer = model.weights.layers[i];
        const AttentionShape& shape = spec.layers[i].attention().shape;
        const KvLayer kv{kv_cache};
        kv_cache += kv_layer_elements(model.num_pages, shape.num_kv_heads, shape.head_dim) * element;
        int64_t row = 0;
        for (const StepBatch& tile : tiles) {
            char* hidden = static_cast<char*>(b.hidden) + row * spec.hidden_dim * element;
            const float* rope = b.rope + row * spec.rope.rotary_dim;
            ops.qkv_attention(tile, layer.qkv, shape, model.weights.rope, rope, hidden, b.normed, b.qkv, kv,
                              b.attention);
            ops.linear_residual(tile, layer.o_proj, b.attention, hidden);
            ops.gate_up(tile, layer.post_attention_norm, layer.gate_up, hidden, b.normed, b.ffn);
            ops.linear_residual(tile, layer.down_proj, b.ffn, hidden);
            row += tile.num_rows;
        }
    }
}

}  // namespace tinyllm
