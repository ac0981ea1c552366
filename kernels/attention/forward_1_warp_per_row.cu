// attention / forward_1_warp_per_row.cu                                                                 rung 1 of 2
// out  o (B,queries,D) T, lse (B,queries,H) f32: log-sum-exp of the scores
// in   qkv (B,tokens,3D) T, a token's row [q|k|v], heads side by side in each; D = H Dh
//      o = softmax(scale q k^T) v by head; a causal query i sees keys 0..i              T = f32, f16 or bf16
// idea        the obvious loop: one warp makes one head of one query row, its probabilities in shared memory
// needs       any GPU; any sizes, 4 bytes of shared memory a token; block of 32, a block a row and head
// bytes/flops every row reads all keys and values: 2*B*queries*tokens*D values; 4*B*queries*tokens*D flops
// predicted   limited by L1 and L2 loads: 1 to 2 % of the tensor cores' rate
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/attention.rs
#include "include/attention_sums.cuh"

template <class T>
DEV void attention(T* o, float* lse, const T* qkv, float scale, int causal, int queries, int tokens, int H, int Dh) {
    DYNAMIC_SHARED(memory);
    float* p = reinterpret_cast<float*>(memory);  // (tokens)
    const int lane = threadIdx.x, h = blockIdx.x % H, row = blockIdx.x / H, i = row % queries, b = row / queries;
    const int D = H * Dh, seen = causal ? i + 1 : tokens;
    const T *q = qkv + (i64(b) * tokens + i) * 3 * D + h * Dh, *keys = qkv + i64(b) * tokens * 3 * D + D + h * Dh;

    float most = float_of(0xff800000), sum = 0.0f;
    for (int j = lane; j < seen; j += WARP_SIZE) {
        p[j] = dot(q, keys + i64(j) * 3 * D, Dh) * scale;
        most = fmaxf(most, p[j]);
    }
    most = warp_max(most);
    for (int j = lane; j < seen; j += WARP_SIZE) sum += p[j] = expf(p[j] - most);
    sum = warp_sum(sum);
    warp_barrier();
    for (int d = lane; d < Dh; d += WARP_SIZE) {
        float v = 0.0f;
        for (int j = 0; j < seen; j++) v += p[j] * to_float(keys[i64(j) * 3 * D + D + d]);
        o[i64(row) * D + h * Dh + d] = from_float<T>(v / sum);
    }
    if (lane == 0) lse[i64(row) * H + h] = most + logf(sum);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(32) attention_forward__1__##T(T* o, float* lse, const T* qkv, float scale,           \
                                                                int causal, int queries, int tokens, int H, int Dh) {  \
        attention(o, lse, qkv, scale, causal, queries, tokens, H, Dh);                                                 \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_forward__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
