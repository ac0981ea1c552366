// Accesses of known cost. Blocks of one warp.
#include "include/barrier.cuh"
#include "include/vec.cuh"

KERNEL void coalesced(float* y, const float* x) { y[threadIdx.x] = x[threadIdx.x]; }
REGISTER_KERNEL(coalesced)

KERNEL void strided(float* y, const float* x) { y[threadIdx.x] = x[threadIdx.x * 32]; }
REGISTER_KERNEL(strided)

KERNEL void wide(float* y, const float* x) { store_vec(y + threadIdx.x * 4, load_vec(x + threadIdx.x * 4)); }
REGISTER_KERNEL(wide)

template <bool COLUMNS> DEV void turn(float* y) {
    SHARED(float[32][32], tile);
    const int t = threadIdx.x;
    tile[0][t] = t;
    warp_barrier();
    if (COLUMNS) tile[t][1] = 1.0f;
    else y[t] = tile[0][31 - t];
}

KERNEL void rows(float* y, const float*) { turn<false>(y); }
REGISTER_KERNEL(rows)

KERNEL void columns(float* y, const float*) { turn<true>(y); }
REGISTER_KERNEL(columns)

KERNEL void atomics(float* y, const float* x) { atomic_add(y, x[threadIdx.x]); }
REGISTER_KERNEL(atomics)
