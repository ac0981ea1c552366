// Each thread reads what another warp wrote.
#include "include/barrier.cuh"

template <bool BUG> DEV void reverse_block(int* y, const int* x) {
    SHARED(int[128], tile);
    tile[threadIdx.x] = x[threadIdx.x];
    if constexpr (!BUG) block_barrier();
    y[threadIdx.x] = tile[127 - threadIdx.x];  // HERE
}

KERNEL void with_bug(int* y, const int* x) { reverse_block<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { reverse_block<false>(y, x); }
REGISTER_KERNEL(without_bug)
