#include "engine/page_pool.h"

#include <numeric>

namespace tinyllm {

PagePool::PagePool(int32_t num_pages) : free_(num_pages) {
    // Lowest page last, so that it is taken first: runs are then repeatable.
    std::iota(free_.rbegin(), free_.rend(), 0);
}

bool PagePool::take(int32_t count, std::vector<int32_t>& pages) {
    if (count > num_free()) return false;
    for (int32_t i = 0; i < count; ++i) {
        pages.push_back(free_.back());
        free_.pop_back();
    }
    return true;
}

void PagePool::give_back(std::vector<int32_t>& pages) {
    free_.insert(free_.end(), pages.rbegin(), pages.rend());
    pages.clear();
}

}  // namespace tinyllm
