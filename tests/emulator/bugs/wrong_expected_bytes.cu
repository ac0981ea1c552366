// The mbarrier expects more bytes than are on their way.
#include "include/copy_async.cuh"

template <bool BUG> DEV void bring(int* y, const int* x) {
    SHARED(int[128], tile);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier);
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(full, 1);
        mbarrier_init_fence();
    }
    block_barrier();
    if (t == 0) {
        mbarrier_arrive_expect(full, BUG ? 640 : 512);
        copy_bulk(shared_address(tile), x, 256, full);
        copy_bulk(shared_address(tile + 64), x + 64, 256, full);
    }
    mbarrier_wait(full, 0);  // HERE
    y[t] = tile[t];
}

KERNEL void with_bug(int* y, const int* x) { bring<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { bring<false>(y, x); }
REGISTER_KERNEL(without_bug)
