#include "model/launch_hints.h"

#include "model/decoder_spec.h"

namespace tinyllm {

void set_launch_hints(DecoderSpec& spec) {
    std::vector<MatrixSpec*> matrices;
    for (LayerSpec& layer : spec.layers)
        for (MatrixSpec& matrix : layer.matrices) matrices.push_back(&matrix);
    matrices.push_back(spec.head ? &*spec.head : &spec.embedding);
    for (size_t i = 0; i < matrices.size(); ++i) {
        matrices[i]->hints.larger_share = i % 2 == 1;
        matrices[i]->hints.next_outputs = i + 1 < matrices.size() ? matrices[i + 1]->n : 0;
    }
}

}  // namespace tinyllm
