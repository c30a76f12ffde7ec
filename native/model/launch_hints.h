// Which place each matrix has beside its neighbours (ops/launch_hints.h).
#pragma once

namespace tinyllm {

struct DecoderSpec;

// One pass over the matrices in the order in which a decode step runs them.
void set_launch_hints(DecoderSpec& spec);

}  // namespace tinyllm
