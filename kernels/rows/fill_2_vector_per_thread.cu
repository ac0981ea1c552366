// rows / fill_2_vector_per_thread.cu                                                                    rung 2 of 2
// out  x (n) T = value                                                                 T = f32, f16 or bf16
// idea        a thread writes 16 bytes; the last one, value by value, what is left
// needs       any GPU; any n, x aligned to 16
// bytes/flops 1 write of n values
// predicted   limited by memory: 90 % of the card's bandwidth
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/rows.rs
#include "include/vec.cuh"

template <class T> DEV void fill(T* x, float value, i64 n) {
    constexpr int SIZE = Vec<T>::SIZE;
    const i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * SIZE;
    Vec<T> v;
#pragma unroll
    for (int e = 0; e < SIZE; e++) v.at[e] = from_float<T>(value);
    if (at + SIZE <= n) store_vec(x + at, v);
    else for (i64 i = at; i < n; i++) x[i] = v.at[0];
}

#define ENTRY(T)                                                                                                       \
    KERNEL void rows_fill__2__##T(T* x, float value, i64 n) { fill(x, value, n); }                                     \
    REGISTER_KERNEL(rows_fill__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
