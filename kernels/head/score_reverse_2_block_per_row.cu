// head / score_reverse_2_block_per_row.cu                                                               rung 2 of 2
// out  dembed (G,E) T: row g is the gradient of text first + g / B's score for image g % B
// in   embed (B,E) T, cos (B,Q), texts (Q,E) f32; kind 0 cosine, 1 scale * cosine, 2 softmax over all texts of those
//                                                                                      T = f32, f16 or bf16
// idea        a block makes a row: the length and the softmax's sums once, then the weights of 256 texts at a time in
//             shared memory, and 16 bytes of the row a thread. Formulas as in rung 1
// needs       any GPU; E a multiple of 16 bytes, pointers aligned to 16; 256 threads
// bytes/flops G*Q*E values of texts from the cache for softmax, G*E otherwise; 3*G*E*Q flops
// predicted   limited by the cache's latency: 64 to 256 threads of a block follow one text after the other
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/head.rs
#include "include/rows.cuh"

constexpr int COSINE = 0, SOFTMAX = 2, THREADS = 256;

template <class T>
DEV void score_reverse(T* dembed, const T* embed, const float* cos, const float* texts, int kind, float scale, int first,
                       int B, int Q, int E) {
    constexpr int SIZE = Vec<T>::SIZE;
    SHARED(float[WARP_SIZE], scratch);
    SHARED(float[THREADS], weight);
    SHARED(float[THREADS], cosine);
    const int g = blockIdx.x, target = first + g / B;
    embed += i64(g % B) * E;
    cos += i64(g % B) * Q;
    dembed += i64(g) * E;

    float squares = 0.0f;
    for (int i = threadIdx.x; i < E; i += THREADS) squares += to_float(embed[i]) * to_float(embed[i]);
    const float norm = sqrtf(block_sum(squares, scratch));

    // Texts from `begin` to `end` have a weight: -share * exp(scale * (cos - most)), and the target's own.
    int begin = target, end = target + 1;
    float most = 0.0f, share = 0.0f, own = kind == COSINE ? 1.0f : scale;
    if (kind == SOFTMAX) {
        begin = 0, end = Q;
        most = cos[0];
        for (int q = threadIdx.x; q < Q; q += THREADS) most = fmaxf(most, cos[q]);
        most = block_max(most, scratch);
        float total = 0.0f, others = 0.0f;
        for (int q = threadIdx.x; q < Q; q += THREADS) {
            const float power = expf(scale * (cos[q] - most));
            total += power;
            if (q != target) others += power;
        }
        total = block_sum(total, scratch);
        others = block_sum(others, scratch);
        share = scale * (expf(scale * (cos[target] - most)) / total) / total;
        // The weights sum to zero. The target's is minus the sum of the others: 1 - s_t cancels where the target is certain.
        own = share * others;
    }

    for (int column = 0; column < E; column += THREADS * SIZE) {
        const int at = column + threadIdx.x * SIZE;
        float direction[SIZE] = {}, sum[SIZE] = {};
        if (at < E) {
            const Vec<T> v = load_vec(embed + at);
#pragma unroll
            for (int e = 0; e < SIZE; e++) direction[e] = to_float(v.at[e]) / norm;
        }
        for (int q0 = begin; q0 < end; q0 += THREADS) {
            const int q = q0 + threadIdx.x, count = end - q0 < THREADS ? end - q0 : THREADS;
            if (q < end) {
                weight[threadIdx.x] = q == target ? own : -share * expf(scale * (cos[q] - most));
                cosine[threadIdx.x] = cos[q];
            }
            block_barrier();
            for (int i = 0; i < count && at < E; i++) {
#pragma unroll
                for (int j = 0; j < SIZE; j += 4) {
                    const Vec<float> text = load_vec(texts + i64(q0 + i) * E + at + j);
#pragma unroll
                    for (int e = 0; e < 4; e++) sum[j + e] += weight[i] * (text.at[e] - cosine[i] * direction[j + e]);
                }
            }
            block_barrier();
        }
        if (at < E) {
            Vec<T> out;
#pragma unroll
            for (int e = 0; e < SIZE; e++) out.at[e] = from_float<T>(sum[e] / norm);
            store_vec(dembed + at, out);
        }
    }
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(THREADS, 4)                                                                             \
        head_score_reverse__2__##T(T* dembed, const T* embed, const float* cos, const float* texts, int kind,          \
                                   float scale, int first, int B, int Q, int E, int) {                                 \
        score_reverse(dembed, embed, cos, texts, kind, scale, first, B, Q, E);                                         \
    }                                                                                                                  \
    REGISTER_KERNEL(head_score_reverse__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
