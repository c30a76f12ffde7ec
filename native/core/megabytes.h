// Bytes as people read them.
#pragma once

namespace tinyllm {

constexpr double megabytes(auto bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace tinyllm
