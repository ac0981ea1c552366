// The last warp's part of the sum is never written.
#include "include/barrier.cuh"

template <bool BUG> DEV void sum_parts(int* y, const int* x) {
    SHARED(int[4], parts);
    const int t = threadIdx.x;
    if (t % 32 == 0 && (!BUG || t < 96)) parts[t / 32] = x[t];
    block_barrier();
    int sum = 0;
    for (int i = 0; i < 4; i++) sum += parts[i];  // HERE
    y[t] = sum;
}

KERNEL void with_bug(int* y, const int* x) { sum_parts<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { sum_parts<false>(y, x); }
REGISTER_KERNEL(without_bug)
