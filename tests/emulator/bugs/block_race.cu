// All blocks write the same place.
#include "include/types.cuh"

template <bool BUG> DEV void claim(int* y, const int* x) {
    const int t = threadIdx.x;
    if (!BUG && blockIdx.x != 0) return;
    y[t] = x[t];  // HERE
}

KERNEL void with_bug(int* y, const int* x) { claim<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { claim<false>(y, x); }
REGISTER_KERNEL(without_bug)
