// head / cosine_1_thread_per_value.cu                                                                   rung 1 of 2
// out  cos (B,Q) f32 = <embed_b, text_q> / |embed_b|
// in   embed (B,E) T, texts (Q,E) f32, rows of length 1                                T = f32, f16 or bf16
// idea        the obvious loop: one thread makes one value
// needs       any GPU; any sizes
// bytes/flops (B*E + Q*E + B*Q) values; 4*B*Q*E flops
// predicted   an eighth of rung 2: neighbouring threads read texts a row apart
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/head.rs
#include "include/types.cuh"

template <class T> DEV void cosine(float* cos, const T* embed, const float* texts, int B, int Q, int E) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= i64(B) * Q) return;
    embed += at / Q * E;
    texts += at % Q * E;
    float dot = 0.0f, squares = 0.0f;
    for (int i = 0; i < E; i++) {
        dot += to_float(embed[i]) * texts[i];
        squares += to_float(embed[i]) * to_float(embed[i]);
    }
    cos[at] = dot / sqrtf(squares);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void head_cosine__1__##T(float* cos, const T* embed, const float* texts, int B, int Q, int E) {             \
        cosine(cos, embed, texts, B, Q, E);                                                                            \
    }                                                                                                                  \
    REGISTER_KERNEL(head_cosine__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
