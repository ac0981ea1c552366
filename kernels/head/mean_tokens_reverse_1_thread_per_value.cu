// head / mean_tokens_reverse_1_thread_per_value.cu                                                      rung 1 of 2
// out  dx (G,T,D) T = dy / T in every token
// in   dy (G,D) T                                                                      T = f32, f16 or bf16
// idea        the obvious loop: one thread makes one value
// needs       any GPU; any sizes
// bytes/flops 1 write of G*T*D values, dy from the cache; as many flops
// predicted   half of rung 2
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/head.rs
#include "include/types.cuh"

template <class T> DEV void mean_tokens_reverse(T* dx, const T* dy, int G, int tokens, int D) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= i64(G) * tokens * D) return;
    dx[at] = from_float<T>(to_float(dy[at / D / tokens * D + at % D]) / tokens);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void head_mean_tokens_reverse__1__##T(T* dx, const T* dy, int G, int tokens, int D) {                       \
        mean_tokens_reverse(dx, dy, G, tokens, D);                                                                     \
    }                                                                                                                  \
    REGISTER_KERNEL(head_mean_tokens_reverse__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
