// LaunchHints: what a kernel may want to know of its neighbours in the forward pass. Of use to speed only: no result
// depends on them, and a backend may ignore them.
#pragma once

#include <cstdint>

namespace tinyllm {

// Of a matrix, set by one pass over all of them (model/launch_hints.h). The defaults are those of one that runs alone.
struct LaunchHints {
    // Where matrices follow each other, kernels overlap: every second one takes the larger part of the memory on the
    // chip, those between them the smaller one.
    bool larger_share = false;
    // Outputs of the matrix that runs next; 0 for none. Between the two lies attention, where this one gives q, k and
    // v.
    int32_t next_outputs = 0;
};

}  // namespace tinyllm
