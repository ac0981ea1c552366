// head / score_reverse_1_thread_per_value.cu                                                            rung 1 of 2
// out  dembed (G,E) T: row g is the gradient of text first + g / B's score for image g % B
// in   embed (B,E) T, cos (B,Q), texts (Q,E) f32; kind 0 cosine, 1 scale * cosine, 2 softmax over all texts of those
//                                                                                      T = f32, f16 or bf16
// idea        the obvious loop: one thread makes one value. d cos_q / d embed = (text_q - cos_q embed / |embed|) / |embed|,
//             and d softmax_t / d cos_q = scale s_t (delta_tq - s_q)
// needs       any GPU; any sizes
// bytes/flops 6*G*E*Q flops for softmax, 6*G*E*E for the lengths
// predicted   a hundredth of rung 2: every thread makes the length and the softmax's sums anew
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/head.rs
#include "include/types.cuh"

constexpr int COSINE = 0, SOFTMAX = 2;

template <class T>
DEV void score_reverse(T* dembed, const T* embed, const float* cos, const float* texts, int kind, float scale, int first,
                       int B, int Q, int E, int G) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= i64(G) * E) return;
    const int g = at / E, e = at % E, target = first + g / B;
    embed += i64(g % B) * E;
    cos += i64(g % B) * Q;
    float squares = 0.0f;
    for (int i = 0; i < E; i++) squares += to_float(embed[i]) * to_float(embed[i]);
    const float norm = sqrtf(squares), direction = to_float(embed[e]) / norm;
    auto slope = [&](int q) { return (texts[i64(q) * E + e] - cos[q] * direction) / norm; };

    float sum = 0.0f;
    if (kind == SOFTMAX) {
        float most = cos[0], total = 0.0f;
        for (int q = 1; q < Q; q++) most = fmaxf(most, cos[q]);
        for (int q = 0; q < Q; q++) total += expf(scale * (cos[q] - most));
        const float own = expf(scale * (cos[target] - most)) / total;
        // The weights sum to zero. The target's is minus the sum of the others: 1 - s_t cancels where the target is certain.
        float others = 0.0f;
        for (int q = 0; q < Q; q++) {
            if (q == target) continue;
            const float weight = scale * own * (expf(scale * (cos[q] - most)) / total);
            others += weight;
            sum -= weight * slope(q);
        }
        sum += others * slope(target);
    } else {
        sum = (kind == COSINE ? 1.0f : scale) * slope(target);
    }
    dembed[at] = from_float<T>(sum);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void head_score_reverse__1__##T(T* dembed, const T* embed, const float* cos, const float* texts, int kind,  \
                                           float scale, int first, int B, int Q, int E, int G) {                       \
        score_reverse(dembed, embed, cos, texts, kind, scale, first, B, Q, E, G);                                      \
    }                                                                                                                  \
    REGISTER_KERNEL(head_score_reverse__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
