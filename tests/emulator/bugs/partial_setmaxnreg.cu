// One warp of a warpgroup gives registers away for all.
#include "include/wgmma.cuh"

template <bool BUG> DEV void lower(int* y, const int* x) {
    const int t = threadIdx.x;
    if (!BUG || t < 32) lower_registers<40>();  // HERE
    y[t] = x[t];
}

KERNEL void with_bug(int* y, const int* x) { lower<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { lower<false>(y, x); }
REGISTER_KERNEL(without_bug)
