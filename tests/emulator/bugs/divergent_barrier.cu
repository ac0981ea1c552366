// Two warps wait at one barrier and two at another.
#include "include/barrier.cuh"

template <bool BUG> DEV void split(int* y, const int* x) {
    const int t = threadIdx.x;
    if (BUG && t < 64) {
        block_barrier();  // HERE
    } else {
        block_barrier();  // OR HERE
    }
    y[t] = x[t];
}

KERNEL void with_bug(int* y, const int* x) { split<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { split<false>(y, x); }
REGISTER_KERNEL(without_bug)
