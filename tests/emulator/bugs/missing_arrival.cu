// The barrier expects a thread that never comes.
#include "include/barrier.cuh"

template <bool BUG> DEV void gather(int* y, const int* x) {
    SHARED(u64, barrier);
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(shared_address(&barrier), BUG ? 129 : 128);
        mbarrier_init_fence();
    }
    block_barrier();
    mbarrier_arrive(shared_address(&barrier));
    mbarrier_wait(shared_address(&barrier), 0);  // HERE
    y[t] = x[t];
}

KERNEL void with_bug(int* y, const int* x) { gather<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { gather<false>(y, x); }
REGISTER_KERNEL(without_bug)
