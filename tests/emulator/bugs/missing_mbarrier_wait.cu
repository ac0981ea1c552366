// What the copy engine brings is read before its mbarrier says that it is there.
#include "include/copy_async.cuh"

template <bool BUG> DEV void bring(int* y, const int* x) {
    SHARED(int[128], tile);
    SHARED(u64, barrier);
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(shared_address(&barrier), 1);
        mbarrier_init_fence();
    }
    block_barrier();
    if (t == 0) {
        mbarrier_arrive_expect(shared_address(&barrier), 512);
        copy_bulk(shared_address(tile), x, 512, shared_address(&barrier));
    }
    if constexpr (BUG) block_barrier();
    else mbarrier_wait(shared_address(&barrier), 0);
    y[t] = tile[t];  // HERE
}

KERNEL void with_bug(int* y, const int* x) { bring<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { bring<false>(y, x); }
REGISTER_KERNEL(without_bug)
