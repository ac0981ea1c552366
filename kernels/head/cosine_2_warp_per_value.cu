// head / cosine_2_warp_per_value.cu                                                                     rung 2 of 2
// out  cos (B,Q) f32 = <embed_b, text_q> / |embed_b|
// in   embed (B,E) T, texts (Q,E) f32, rows of length 1                                T = f32, f16 or bf16
// idea        a warp makes one value, 16 bytes a lane; the length comes with the product
// needs       any GPU; E a multiple of 16 bytes, pointers aligned to 16; block of whole warps
// bytes/flops (B*E + Q*E + B*Q) values from memory, B*Q*E*(4 + sizeof(T)) bytes from the cache; 4*B*Q*E flops
// predicted   limited by the cache: at B = 64, Q = 1000, E = 768 in bf16, 300 MB, 60 us on an A100
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/head.rs
#include "include/rows.cuh"

template <class T> DEV void cosine(float* cos, const T* embed, const float* texts, int B, int Q, int E) {
    constexpr int SIZE = Vec<T>::SIZE;
    const i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) / WARP_SIZE;
    if (at >= i64(B) * Q) return;
    embed += at / Q * E;
    texts += at % Q * E;
    float dot = 0.0f, squares = 0.0f;
    for (int i = threadIdx.x % WARP_SIZE * SIZE; i < E; i += WARP_SIZE * SIZE) {
        const Vec<T> v = load_vec(embed + i);
        dot = multiply_add(texts + i, v, dot);
#pragma unroll
        for (int e = 0; e < SIZE; e++) squares += to_float(v.at[e]) * to_float(v.at[e]);
    }
    dot = warp_sum(dot);
    squares = warp_sum(squares);
    if (threadIdx.x % WARP_SIZE == 0) cos[at] = dot / sqrtf(squares);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(256)                                                                                 \
        head_cosine__2__##T(float* cos, const T* embed, const float* texts, int B, int Q, int E) {                     \
        cosine(cos, embed, texts, B, Q, E);                                                                            \
    }                                                                                                                  \
    REGISTER_KERNEL(head_cosine__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
