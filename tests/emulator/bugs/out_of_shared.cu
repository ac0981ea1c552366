// One value past the end of a shared array.
#include "include/barrier.cuh"

template <bool BUG> DEV void shift(int* y, const int* x) {
    SHARED(int[128], tile);
    tile[threadIdx.x] = x[threadIdx.x];
    block_barrier();
    y[threadIdx.x] = tile[BUG ? threadIdx.x + 1 : (threadIdx.x + 1) % 128];  // HERE
}

KERNEL void with_bug(int* y, const int* x) { shift<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { shift<false>(y, x); }
REGISTER_KERNEL(without_bug)
