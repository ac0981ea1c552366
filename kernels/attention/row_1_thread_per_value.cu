// attention / row_1_thread_per_value.cu                                                                 rung 1 of 2
// out  r_out (B,tokens) f32 = keep r_in + gain/H sum over heads and query rows i of r_in[i] P_i
// in   qkv (B,tokens,3D) T, lse (B,queries,H) f32, r_in (B,tokens) f32; D = H Dh        T = f32, f16 or bf16
//      rollout of Abnar and Zuidema, arXiv 2005.00928, one row of it
//      scratch: sums (B,queries,H) f32 of exp(score - lse)
// idea        the obvious loops: a warp a row and head for its sum, then a thread a value, over all heads in order;
//             P recomputed from lse, renormalised
// needs       any GPU; any sizes; block of 128
// bytes/flops every value reads all queries, every sum all keys: 2*B*queries*tokens*D values; 4*B*queries*tokens*D flops
// predicted   limited by L1 loads, and by B*tokens threads in small batches: 1 % of the tensor cores' rate
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/attention.rs
#include "include/attention_sums.cuh"

template <class T>
DEV void row(float* r_out, const float* r_in, float keep, float gain, const float* sums, const T* qkv, const float* lse,
             float scale, int causal, int queries, int tokens, int B, int H, int Dh) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    const int j = at % tokens, b = at / tokens, D = H * Dh;
    if (b >= B) return;
    const i64 stride = 3 * D;
    qkv += b * tokens * stride;
    lse += i64(b) * queries * H;
    sums += i64(b) * queries * H;
    float sum = 0.0f;
    for (int h = 0; h < H; h++) {
        const T* k = qkv + j * stride + D + h * Dh;
        float of_head = 0.0f;
        for (int i = causal ? j : 0; i < queries; i++) {
            const float p = expf(fmaf(dot(qkv + i * stride + h * Dh, k, Dh), scale, -lse[i * H + h])) / sums[i * H + h];
            of_head += r_in[i64(b) * tokens + i] * p;
        }
        sum += of_head;
    }
    r_out[at] = keep * r_in[at] + gain / H * sum;
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(WARP_SIZE)                                                                           \
        attention_row_sums__1__##T(float* sums, const T* qkv, const float* lse, float scale, int causal, int queries,  \
                                   int tokens, int H, int Dh) {                                                        \
        attention_sums(sums, qkv, lse, scale, causal, queries, tokens, H, Dh);                                         \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_row_sums__1__##T)                                                                        \
    KERNEL void __launch_bounds__(128)                                                                                 \
        attention_row__1__##T(float* r_out, const float* r_in, float keep, float gain, const float* sums,              \
                              const T* qkv, const float* lse, float scale, int causal, int queries, int tokens, int B, \
                              int H, int Dh) {                                                                         \
        row(r_out, r_in, keep, gain, sums, qkv, lse, scale, causal, queries, tokens, B, H, Dh);                        \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_row__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
