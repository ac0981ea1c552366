// head / mean_tokens_reverse_2_vector_per_thread.cu                                                     rung 2 of 2
// out  dx (G,T,D) T = dy / T in every token
// in   dy (G,D) T                                                                      T = f32, f16 or bf16
// idea        a thread makes 16 bytes
// needs       any GPU; D a multiple of 16 bytes, pointers aligned to 16
// bytes/flops 1 write of G*T*D values, dy from the cache; as many flops
// predicted   limited by memory: 85 % of the card's bandwidth
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/head.rs
#include "include/vec.cuh"

template <class T> DEV void mean_tokens_reverse(T* dx, const T* dy, int G, int tokens, int D) {
    constexpr int SIZE = Vec<T>::SIZE;
    const i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * SIZE;
    if (at >= i64(G) * tokens * D) return;
    const i64 row = at / D;
    Vec<T> v = load_vec(dy + row / tokens * D + (at - row * D));
#pragma unroll
    for (int e = 0; e < SIZE; e++) v.at[e] = from_float<T>(to_float(v.at[e]) / tokens);
    store_vec(dx + at, v);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void head_mean_tokens_reverse__2__##T(T* dx, const T* dy, int G, int tokens, int D) {                       \
        mean_tokens_reverse(dx, dy, G, tokens, D);                                                                     \
    }                                                                                                                  \
    REGISTER_KERNEL(head_mean_tokens_reverse__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
