// The consumers tell the producer that the buffer is free before they have read it.
#include "include/barrier.cuh"

template <bool BUG> DEV void hand_over(int* y, const int* x) {
    SHARED(int[32], buffer);
    SHARED(u64[2], barriers);
    const u32 full = shared_address(&barriers[0]), empty = shared_address(&barriers[1]);
    const int t = threadIdx.x, lane = t % 32;
    if (t == 0) {
        mbarrier_init(full, 32);
        mbarrier_init(empty, 96);
        mbarrier_init_fence();
    }
    block_barrier();
    int sum = 0;
    for (u32 step = 0; step < 4; step++) {
        if (t < 32) {
            mbarrier_wait(empty, step % 2 ^ 1);
            buffer[lane] = x[lane] + step;  // HERE
            mbarrier_arrive(full);
        } else {
            mbarrier_wait(full, step % 2);
            if constexpr (BUG) mbarrier_arrive(empty);
            sum += buffer[31 - lane];  // OR HERE
            if constexpr (!BUG) mbarrier_arrive(empty);
        }
    }
    y[t] = sum;
}

KERNEL void with_bug(int* y, const int* x) { hand_over<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { hand_over<false>(y, x); }
REGISTER_KERNEL(without_bug)
