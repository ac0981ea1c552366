// attention / row_2_key_tiles.cu                                                                        rung 2 of 2
// out  r_out (B,tokens) f32 = keep r_in + gain/H sum over heads and query rows i of r_in[i] P_i
// in   qkv (B,tokens,3D) T, lse (B,queries,H) f32, r_in (B,tokens) f32; D = H Dh        T = f16 or bf16
//      rollout of Abnar and Zuidema, arXiv 2005.00928, one row of it
//      scratch: statistics (B,H,queries,2) f32, columns (B,H,tokens) f32
// idea        64 queries a block for their sums of P; then 64 keys a block, queries through 2 cp.async stages, P transposed
//             in registers, renormalised and summed there; then a sum over heads
// needs       sm_80+; Dh a multiple of 8 up to the entry's width, pointers aligned to 16; 3 tiles of shared memory
// bytes/flops ceil(tokens/64) + 1 reads of q, ceil(queries/64) + 1 of k; 4*B*queries*tokens*D flops
// predicted   40 % of mma.sync's peak for long sequences; 25 % of it at 257 tokens
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/attention.rs
#include "include/attention_keys.cuh"
#include "include/attention_queries.cuh"

#define ENTRY(T, W)                                                                                                    \
    KERNEL void __launch_bounds__(attention::THREADS, W <= 64 && sizeof(T) == 2 ? 4 : 3)                               \
        attention_row_sums_d##W##__2__##T(float* statistics, const T* qkv, const float* lse, float scale, int causal,  \
                                          int queries, int tokens, int H, int Dh) {                                    \
        attention::inverse_sums<T, W>(statistics, qkv, lse, scale, causal, queries, tokens, H, Dh);                    \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_row_sums_d##W##__2__##T)                                                                 \
    KERNEL void __launch_bounds__(attention::THREADS, W <= 64 && sizeof(T) == 2 ? 4 : 3)                               \
        attention_row_keys_d##W##__2__##T(float* columns, const float* r_in, const float* statistics, const T* qkv,    \
                                          const float* lse, float scale, int causal, int queries, int tokens, int B,   \
                                          int H, int Dh) {                                                             \
        attention::key_tile<T, W, true, false>({nullptr, columns, r_in, statistics, nullptr, qkv, lse}, scale, causal, \
                                               queries, tokens, B, H, Dh);                                             \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_row_keys_d##W##__2__##T)

#define ENTRIES(T)                                                                                                     \
    ENTRY(T, 32)                                                                                                       \
    ENTRY(T, 64)                                                                                                       \
    ENTRY(T, 80)                                                                                                       \
    ENTRY(T, 96)                                                                                                       \
    ENTRY(T, 112)                                                                                                      \
    KERNEL void __launch_bounds__(256)                                                                                 \
        attention_row_heads__2__##T(float* r_out, const float* r_in, float keep, float factor, const float* columns,   \
                                    int tokens, int H, i64 values) {                                                   \
        const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;                                                     \
        if (at < values) r_out[at] = keep * r_in[at] + factor * attention::head_sum(columns, at, tokens, H);           \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_row_heads__2__##T)

ENTRIES(f32)
ENTRIES(f16)
ENTRIES(bf16)
