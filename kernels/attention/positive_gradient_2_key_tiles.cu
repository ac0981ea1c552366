// attention / positive_gradient_2_key_tiles.cu                                                          rung 2 of 2
// out  map (G,tokens-1) f32 += mean over heads and query rows of relu(dO V^T), column 0 (CLS) dropped
// in   d_o (G,queries,D) T, qkv (B,tokens,3D) T; D = H Dh                               T = f16 or bf16
//      gradient image g belongs to forward image g % B; the map of LeGrad, arXiv 2404.03214
//      scratch: columns (G,H,tokens) f32
// idea        64 values a block, dO through 2 cp.async stages, dP transposed in registers and summed there; then a sum
//             over heads
// needs       sm_80+; Dh a multiple of 8 up to the entry's width, pointers aligned to 16; 3 tiles of shared memory
// bytes/flops ceil(tokens/64) reads of dO, one of v; 2*G*queries*tokens*D flops
// predicted   45 % of mma.sync's peak for long sequences, no exponentials; 30 % of it at 257 tokens
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/attention.rs
#include "include/attention_keys.cuh"

#define ENTRY(T, W)                                                                                                    \
    KERNEL void __launch_bounds__(attention::THREADS, 4)                                                               \
        attention_positive_gradient_keys_d##W##__2__##T(float* columns, const T* d_o, const T* qkv, int queries,       \
                                                        int tokens, int B, int H, int Dh) {                            \
        attention::key_tile<T, W, false, true>({nullptr, columns, nullptr, nullptr, d_o, qkv, nullptr}, 1.0f, 0,       \
                                               queries, tokens, B, H, Dh);                                             \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_positive_gradient_keys_d##W##__2__##T)

// `factor` is 1 / (H queries).
#define ENTRIES(T)                                                                                                     \
    ENTRY(T, 32)                                                                                                       \
    ENTRY(T, 64)                                                                                                       \
    ENTRY(T, 80)                                                                                                       \
    ENTRY(T, 96)                                                                                                       \
    ENTRY(T, 112)                                                                                                      \
    KERNEL void __launch_bounds__(256) attention_positive_gradient_heads__2__##T(                                      \
        float* map, float factor, const float* columns, int tokens, int H, i64 values) {                               \
        const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;                                                     \
        const i64 column = at / (tokens - 1) * tokens + at % (tokens - 1) + 1;                                         \
        if (at < values) map[at] += factor * attention::head_sum(columns, column, tokens, H);                          \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_positive_gradient_heads__2__##T)

ENTRIES(f32)
ENTRIES(f16)
ENTRIES(bf16)
