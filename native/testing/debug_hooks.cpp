#include "memory/tracker.h"
#include "testing/testing.h"

using namespace tinyllm;

void tl_debug_fail_allocation(int64_t countdown) { MemoryTracker::fail_after(countdown); }
uint64_t tl_debug_live_bytes(void) { return MemoryTracker::live_bytes_in_process(); }
