// rows / gather_1_thread_per_value.cu                                                                   rung 1 of 2
// out  y (n,D) T: row i is row rows[i] of x
// in   x rows of D T, rows (n) u32                                                     T = f32, f16 or bf16
// idea        the obvious loop: one thread copies one value
// needs       any GPU; any sizes
// bytes/flops 1 read + 1 write of n*D values
// predicted   half of rung 2
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/rows.rs
#include "include/types.cuh"

template <class T> DEV void gather(T* y, const T* x, const u32* rows, int n, int D) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at < i64(n) * D) y[at] = x[i64(rows[at / D]) * D + at % D];
}

#define ENTRY(T)                                                                                                       \
    KERNEL void rows_gather__1__##T(T* y, const T* x, const u32* rows, int n, int D) { gather(y, x, rows, n, D); }     \
    REGISTER_KERNEL(rows_gather__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
