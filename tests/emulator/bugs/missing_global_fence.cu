// Threads write global memory, and the copy engine that brings it back does not know of it.
#include "include/copy_async.cuh"

template <bool BUG> DEV void turn(int* y, const int* x) {
    SHARED(int[128], tile);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier);
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(full, 1);
        mbarrier_init_fence();
    }
    y[t] = x[t];
    if constexpr (!BUG) async_proxy_fence();
    block_barrier();
    if (t == 0) {
        mbarrier_arrive_expect(full, 512);
        copy_bulk(shared_address(tile), y, 512, full);  // HERE
    }
    mbarrier_wait(full, 0);
    y[t] = tile[127 - t];
}

KERNEL void with_bug(int* y, const int* x) { turn<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { turn<false>(y, x); }
REGISTER_KERNEL(without_bug)
