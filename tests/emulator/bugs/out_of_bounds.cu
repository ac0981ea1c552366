// One value past the end.
#include "include/types.cuh"

template <bool BUG> DEV void fill(int* y, const int*) {
    const int t = threadIdx.x;
    if (BUG ? t < 128 : t < 127) y[t + 1] = t;  // HERE
    if (t == 0) y[0] = 0;
}

KERNEL void with_bug(int* y, const int* x) { fill<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { fill<false>(y, x); }
REGISTER_KERNEL(without_bug)
