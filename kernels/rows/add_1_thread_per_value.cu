// rows / add_1_thread_per_value.cu                                                                      rung 1 of 2
// out  y, rows of D `stride` values apart, T: row i += row i of x
// in   x (n,D) T                                                                       T = f32, f16 or bf16
// idea        the obvious loop: one thread makes one value
// needs       any GPU; any sizes with stride >= D
// bytes/flops 2 reads + 1 write of n*D values; n*D flops
// predicted   half of rung 2
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/rows.rs
#include "include/types.cuh"

template <class T> DEV void add(T* y, i64 stride, const T* x, int n, int D) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= i64(n) * D) return;
    T* to = y + at / D * stride + at % D;
    *to = from_float<T>(to_float(*to) + to_float(x[at]));
}

#define ENTRY(T)                                                                                                       \
    KERNEL void rows_add__1__##T(T* y, i64 stride, const T* x, int n, int D) { add(y, stride, x, n, D); }              \
    REGISTER_KERNEL(rows_add__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
