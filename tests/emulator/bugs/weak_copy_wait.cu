// A pipeline of two stages that waits for one group too few.
#include "include/copy_async.cuh"

template <bool BUG> DEV void sum_stages(int* y, const int* x) {
    SHARED(int[2][128][4], stage);
    const int t = threadIdx.x;
    int sum = 0;
    copy_async_16(shared_address(stage[0][t]), x);
    copy_async_commit();
    for (int step = 0; step < 4; step++) {
        if (step + 1 < 4) copy_async_16(shared_address(stage[(step + 1) % 2][t]), x + (step + 1) * 4);
        copy_async_commit();
        copy_async_wait<BUG ? 2 : 1>();
        sum += stage[step % 2][t][0];  // HERE
    }
    y[t] = sum;
}

KERNEL void with_bug(int* y, const int* x) { sum_stages<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { sum_stages<false>(y, x); }
REGISTER_KERNEL(without_bug)
