// rows / fill_1_thread_per_value.cu                                                                     rung 1 of 2
// out  x (n) T = value                                                                 T = f32, f16 or bf16
// idea        the obvious loop: one thread writes one value
// needs       any GPU; any n
// bytes/flops 1 write of n values
// predicted   60 % of the card's bandwidth in 16-bit types: 64 bytes a warp
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/rows.rs
#include "include/types.cuh"

template <class T> DEV void fill(T* x, float value, i64 n) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at < n) x[at] = from_float<T>(value);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void rows_fill__1__##T(T* x, float value, i64 n) { fill(x, value, n); }                                     \
    REGISTER_KERNEL(rows_fill__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
