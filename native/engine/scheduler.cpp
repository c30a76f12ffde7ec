#include "engine/scheduler.h"

#include <algorithm>

namespace tinyllm {

StepPlan plan_step(std::span<const SequenceState> running, std::span<const SequenceState> waiting,
                   const StepBudget& budget) {
    StepPlan plan;
    int32_t free_pages = budget.free_pages;
    for (const SequenceState& request : waiting) {
        if (plan.num_started == budget.free_slots || request.max_pages > free_pages) break;
        free_pages -= request.max_pages;
        ++plan.num_started;
    }
    const auto num_running = static_cast<int32_t>(running.size());
    for (int32_t i = 0; i < num_running; ++i)
        if (running[i].kv_len >= running[i].prompt_tokens) plan.decode.push_back(i);
    int32_t room = plan.decode.empty() ? budget.max_prefill_rows : std::min(budget.chunk_rows, budget.max_prefill_rows);
    for (int32_t i = 0; i < num_running + plan.num_started && room > 0; ++i) {
        const SequenceState& request = i < num_running ? running[i] : waiting[i - num_running];
        const int32_t count = std::min(room, request.prompt_tokens - request.kv_len);
        if (count <= 0) continue;
        plan.prefill.push_back({i, request.kv_len, count});
        room -= count;
    }
    return plan;
}

}  // namespace tinyllm
