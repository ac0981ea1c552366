// rows / add_2_vector_per_thread.cu                                                                     rung 2 of 2
// out  y, rows of D `stride` values apart, T: row i += row i of x
// in   x (n,D) T                                                                       T = f32, f16 or bf16
// idea        a thread makes 16 bytes
// needs       any GPU; D and stride multiples of 16 bytes, stride >= D, pointers aligned to 16
// bytes/flops 2 reads + 1 write of n*D values; n*D flops
// predicted   limited by memory: 85 % of the card's bandwidth for rows of some KiB
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/rows.rs
#include "include/vec.cuh"

template <class T> DEV void add(T* y, i64 stride, const T* x, int n, int D) {
    constexpr int SIZE = Vec<T>::SIZE;
    const i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * SIZE;
    if (at >= i64(n) * D) return;
    const i64 row = at / D;
    T* to = y + row * stride + (at - row * D);
    const Vec<T> term = load_vec(x + at);
    Vec<T> v = load_vec(to);
#pragma unroll
    for (int e = 0; e < SIZE; e++) v.at[e] = from_float<T>(to_float(v.at[e]) + to_float(term.at[e]));
    store_vec(to, v);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void rows_add__2__##T(T* y, i64 stride, const T* x, int n, int D) { add(y, stride, x, n, D); }              \
    REGISTER_KERNEL(rows_add__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
