// rows / gather_2_vector_per_thread.cu                                                                  rung 2 of 2
// out  y (n,D) T: row i is row rows[i] of x
// in   x rows of D T, rows (n) u32                                                     T = f32, f16 or bf16
// idea        a thread copies 16 bytes
// needs       any GPU; D a multiple of 16 bytes, pointers aligned to 16
// bytes/flops 1 read + 1 write of n*D values
// predicted   limited by memory: 85 % of the card's bandwidth for rows of some KiB
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/rows.rs
#include "include/vec.cuh"

template <class T> DEV void gather(T* y, const T* x, const u32* rows, int n, int D) {
    const i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * Vec<T>::SIZE;
    if (at >= i64(n) * D) return;
    const i64 row = at / D;
    store_vec(y + at, load_vec(x + i64(rows[row]) * D + (at - row * D)));
}

#define ENTRY(T)                                                                                                       \
    KERNEL void rows_gather__2__##T(T* y, const T* x, const u32* rows, int n, int D) { gather(y, x, rows, n, D); }     \
    REGISTER_KERNEL(rows_gather__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
