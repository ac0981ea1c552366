// head / mean_tokens_1_thread_per_value.cu                                                              rung 1 of 2
// out  y (B,D) T = mean over the tokens of x
// in   x (B,T,D) T                                                                     T = f32, f16 or bf16
// idea        the obvious loop: one thread makes one value; neighbours read neighbours
// needs       any GPU; any sizes
// bytes/flops 1 read of B*T*D values, 1 write of B*D; B*T*D flops
// predicted   a tenth of rung 2 for small B: B*D threads do not fill the card
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/head.rs
#include "include/types.cuh"

template <class T> DEV void mean_tokens(T* y, const T* x, int B, int tokens, int D) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= i64(B) * D) return;
    x += at / D * tokens * D + at % D;
    float sum = 0.0f;
    for (int t = 0; t < tokens; t++) sum += to_float(x[i64(t) * D]);
    y[at] = from_float<T>(sum / tokens);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void head_mean_tokens__1__##T(T* y, const T* x, int B, int tokens, int D) { mean_tokens(y, x, B, tokens, D); } \
    REGISTER_KERNEL(head_mean_tokens__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
