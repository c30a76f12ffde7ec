// The pages of the KV cache pool that no request holds. Their layout is in ops/kv_cache.h.
#pragma once

#include <cstdint>
#include <vector>

namespace tinyllm {

// Free list of pages. Not thread-safe: the engine's lock guards it.
class PagePool {
public:
    explicit PagePool(int32_t num_pages);
    int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
    // Takes `count` pages and appends them to `pages`; false, taking none, if fewer are free.
    bool take(int32_t count, std::vector<int32_t>& pages);
    // Gives pages back and empties the vector.
    void give_back(std::vector<int32_t>& pages);

private:
    std::vector<int32_t> free_;
};

}  // namespace tinyllm
