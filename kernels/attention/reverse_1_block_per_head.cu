// attention / reverse_1_block_per_head.cu                                                               rung 1 of 2
// out  dqkv (G,tokens,3D) T; rows of dq past `queries` are zero
//      r_out (G,tokens) f32 = keep r_in + gain/H sum over heads and query rows i of r_in[i] relu(P_i dP_i): the relevance
//      row of Chefer et al., arXiv 2103.15679
// in   d_o (G,queries,D) T, qkv (B,tokens,3D) T, lse (B,queries,H) f32, r_in (G,tokens) f32; D = H Dh
//      gradient image g belongs to forward image g % B                                  T = f32, f16 or bf16
//      dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = scale dS K, dK = scale dS^T Q, dV = P^T dO
//      scratch: sums (B,queries,H) f32 of exp(score - lse)
// idea        the obvious loops. dqkv: a block a head, first a warp a query row, then a warp a key, P recomputed in both.
//             relevance: a warp a row and head for its sum, then a thread a value, over all heads in order. P renormalised
// needs       any GPU; any sizes, 40 bytes of shared memory a token for dqkv; block of 128
// bytes/flops every query and key reads the whole head; 14*G*queries*tokens*D flops, relevance 6 more
// predicted   limited by L1 and L2 loads, and by G*H blocks in small batches: 1 % of the tensor cores' rate
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/attention.rs
#include "include/attention_sums.cuh"

constexpr int THREADS = 128, WARPS = THREADS / WARP_SIZE;

template <class T>
DEV void attention_reverse(T* dqkv, const T* d_o, const T* qkv, const float* lse, float scale, int causal, int queries,
                           int tokens, int B, int H, int Dh) {
    DYNAMIC_SHARED(memory);
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    float* sums = reinterpret_cast<float*>(memory);               // (tokens): of exp(score - lse)
    float* deltas = sums + tokens;                                // (tokens): rowsum(P dP)
    float *p = deltas + tokens + warp * 2 * tokens, *ds = p + tokens;  // (tokens) each, the warp's own
    const int h = blockIdx.x % H, g = blockIdx.x / H, b = g % B, D = H * Dh;
    const i64 stride = 3 * D;
    const T *q = qkv + b * tokens * stride + h * Dh, *k = q + D, *v = k + D;
    T *dq = dqkv + g * tokens * stride + h * Dh, *dk = dq + D, *dv = dk + D;
    d_o += i64(g) * queries * D + h * Dh;
    lse += i64(b) * queries * H + h;

    for (int i = warp; i < tokens; i += WARPS) {
        const int seen = i >= queries ? 0 : causal ? i + 1 : tokens;
        float sum = 0.0f, delta = 0.0f;
        for (int j = lane; j < seen; j += WARP_SIZE) {
            sum += p[j] = expf(fmaf(dot(q + i * stride, k + j * stride, Dh), scale, -lse[i * H]));
            ds[j] = dot(d_o + i64(i) * D, v + j * stride, Dh);
        }
        // Brought to a sum of 1 again: where one score towers, dP - delta cancels almost completely, and what a sum of
        // 1 + eps leaves over would drown it.
        sum = warp_sum(sum);
        for (int j = lane; j < seen; j += WARP_SIZE) delta += (p[j] /= sum) * ds[j];
        delta = warp_sum(delta);
        for (int j = lane; j < seen; j += WARP_SIZE) ds[j] = p[j] * (ds[j] - delta);
        if (lane == 0) {
            sums[i] = sum;
            deltas[i] = delta;
        }
        warp_barrier();
        for (int d = lane; d < Dh; d += WARP_SIZE) {
            float x = 0.0f;
            for (int j = 0; j < seen; j++) x += ds[j] * to_float(k[j * stride + d]);
            dq[i * stride + d] = from_float<T>(x * scale);
        }
        warp_barrier();
    }
    block_barrier();
    for (int j = warp; j < tokens; j += WARPS) {
        const int first = causal ? j : 0;
        for (int i = first + lane; i < queries; i += WARP_SIZE) {
            p[i] = expf(fmaf(dot(q + i * stride, k + j * stride, Dh), scale, -lse[i * H])) / sums[i];
            ds[i] = p[i] * (dot(d_o + i64(i) * D, v + j * stride, Dh) - deltas[i]);
        }
        warp_barrier();
        for (int d = lane; d < Dh; d += WARP_SIZE) {
            float x = 0.0f, y = 0.0f;
            for (int i = first; i < queries; i++) {
                x += ds[i] * to_float(q[i * stride + d]);
                y += p[i] * to_float(d_o[i64(i) * D + d]);
            }
            dk[j * stride + d] = from_float<T>(x * scale);
            dv[j * stride + d] = from_float<T>(y);
        }
        warp_barrier();
    }
}

template <class T>
DEV void relevance(float* r_out, const float* r_in, float keep, float gain, const float* sums, const T* d_o, const T* qkv,
                   const float* lse, float scale, int causal, int queries, int tokens, int B, int H, int Dh, int G) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    const int j = at % tokens, g = at / tokens, b = g % B, D = H * Dh;
    if (g >= G) return;
    const i64 stride = 3 * D;
    qkv += b * tokens * stride;
    d_o += i64(g) * queries * D;
    lse += i64(b) * queries * H;
    sums += i64(b) * queries * H;
    float sum = 0.0f;
    for (int h = 0; h < H; h++) {
        const T *k = qkv + j * stride + D + h * Dh, *v = k + D;
        float of_head = 0.0f;
        for (int i = causal ? j : 0; i < queries; i++) {
            const float p = expf(fmaf(dot(qkv + i * stride + h * Dh, k, Dh), scale, -lse[i * H + h])) / sums[i * H + h];
            of_head += r_in[i64(g) * tokens + i] * fmaxf(p * dot(d_o + i64(i) * D + h * Dh, v, Dh), 0.0f);
        }
        sum += of_head;
    }
    r_out[at] = keep * r_in[at] + gain / H * sum;
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(THREADS)                                                                             \
        attention_reverse__1__##T(T* dqkv, const T* d_o, const T* qkv, const float* lse, float scale, int causal,      \
                                  int queries, int tokens, int B, int H, int Dh) {                                     \
        attention_reverse(dqkv, d_o, qkv, lse, scale, causal, queries, tokens, B, H, Dh);                              \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_reverse__1__##T)                                                                         \
    KERNEL void __launch_bounds__(WARP_SIZE)                                                                           \
        attention_reverse_sums__1__##T(float* sums, const T* qkv, const float* lse, float scale, int causal,           \
                                       int queries, int tokens, int H, int Dh) {                                       \
        attention_sums(sums, qkv, lse, scale, causal, queries, tokens, H, Dh);                                         \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_reverse_sums__1__##T)                                                                    \
    KERNEL void __launch_bounds__(THREADS)                                                                             \
        attention_reverse_relevance__1__##T(float* r_out, const float* r_in, float keep, float gain,                   \
                                            const float* sums, const T* d_o, const T* qkv, const float* lse,           \
                                            float scale, int causal, int queries, int tokens, int B, int H, int Dh,    \
                                            int G) {                                                                   \
        relevance(r_out, r_in, keep, gain, sums, d_o, qkv, lse, scale, causal, queries, tokens, B, H, Dh, G);          \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_reverse_relevance__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
