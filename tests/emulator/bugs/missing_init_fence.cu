// The copy engine is given an mbarrier that it may not know yet.
#include "include/copy_async.cuh"

template <bool BUG> DEV void bring(int* y, const int* x) {
    SHARED(int[128], tile);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier);
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(full, 1);
        if constexpr (!BUG) mbarrier_init_fence();
    }
    block_barrier();
    if (t == 0) {
        mbarrier_arrive_expect(full, 512);
        copy_bulk(shared_address(tile), x, 512, full);  // HERE
    }
    mbarrier_wait(full, 0);
    y[t] = tile[t];
}

KERNEL void with_bug(int* y, const int* x) { bring<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { bring<false>(y, x); }
REGISTER_KERNEL(without_bug)
