// attention / positive_gradient_1_thread_per_value.cu                                                   rung 1 of 2
// out  map (G,tokens-1) f32 += mean over heads and query rows of relu(dO V^T), column 0 (CLS) dropped
// in   d_o (G,queries,D) T, qkv (B,tokens,3D) T; D = H Dh                               T = f32, f16 or bf16
//      gradient image g belongs to forward image g % B; the map of LeGrad, arXiv 2404.03214
// idea        the obvious loop: a thread makes one value, over all heads in order
// needs       any GPU; any sizes; block of 128
// bytes/flops every value reads all of dO: G*queries*tokens*D values; 2*G*queries*tokens*D flops
// predicted   limited by L1 loads, and by G*tokens threads in small batches: 1 % of the tensor cores' rate
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/attention.rs
#include "include/types.cuh"

template <class T>
DEV void positive_gradient(float* map, const T* d_o, const T* qkv, int queries, int tokens, int B, int H, int Dh, int G) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    const int j = at % (tokens - 1) + 1, g = at / (tokens - 1), b = g % B, D = H * Dh;
    if (g >= G) return;
    const T* v = qkv + (i64(b) * tokens + j) * 3 * D + 2 * D;
    d_o += i64(g) * queries * D;
    float sum = 0.0f;
    for (int h = 0; h < H; h++) {
        for (int i = 0; i < queries; i++) {
            float s = 0.0f;
            for (int d = h * Dh; d < (h + 1) * Dh; d++) s += to_float(d_o[i64(i) * D + d]) * to_float(v[d]);
            sum += fmaxf(s, 0.0f);
        }
    }
    map[at] += sum / (float(H) * queries);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(128) attention_positive_gradient__1__##T(                                            \
        float* map, const T* d_o, const T* qkv, int queries, int tokens, int B, int H, int Dh, int G) {                \
        positive_gradient(map, d_o, qkv, queries, tokens, B, H, Dh, G);                                                \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_positive_gradient__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
