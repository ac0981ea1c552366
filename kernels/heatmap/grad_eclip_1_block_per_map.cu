// heatmap / grad_eclip_1_block_per_map.cu                                                               rung 1 of 2
// out  map (G,P) f32 = relu(sum over query rows t of lambda_ti <d_o_t, v_i>), P = T - 1 (Grad-ECLIP)
// in   d_o (G,queries,D) T, qkv (B,T,3D) T; map g belongs to image g % B                T = f32, f16 or bf16
//      lambda_t = min-max over the patches of cos(q_t, k_i); all 1 where all are equal
// idea        the obvious loop: a block per map, a thread per patch; cosines are made once for their range, once for use
// needs       any GPU; any sizes; block of at most 1024 threads, whole warps
// bytes/flops for a query row that is not zero: 5 P D flops of multiply-add, twice for q and k
// predicted   an eighth of rung 2: neighbouring threads read rows 3D apart
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/heatmap.rs
#include "include/reduce.cuh"

// Beyond any cosine.
constexpr float LARGEST = 3.0e38f;

template <class T> DEV float dot(const T* a, const T* b, int D) {
    float sum = 0.0f;
    for (int i = 0; i < D; i++) sum += to_float(a[i]) * to_float(b[i]);
    return sum;
}

template <class T> DEV bool is_zero(const T* a, int D) {
    for (int i = 0; i < D; i++) {
        if (to_float(a[i]) != 0.0f) return false;
    }
    return true;
}

template <class T>
DEV void grad_eclip(float* map, const T* d_o, const T* qkv, int B, int tokens, int queries, int D) {
    SHARED(float[WARP_SIZE], scratch);
    const int g = blockIdx.x, patches = tokens - 1;
    map += i64(g) * patches;
    d_o += i64(g) * queries * D;
    qkv += i64(g % B) * tokens * 3 * D;
    for (int i = threadIdx.x; i < patches; i += blockDim.x) map[i] = 0.0f;
    for (int t = 0; t < queries; t++, d_o += D) {
        // A token that the score does not read.
        if (is_zero(d_o, D)) continue;
        const T* q = qkv + i64(t) * 3 * D;
        const float q_norm = sqrtf(dot(q, q, D));
        auto cosine = [&](int i) {
            const T* k = qkv + (i64(i + 1) * 3 + 1) * D;
            return dot(q, k, D) / (q_norm * sqrtf(dot(k, k, D)));
        };
        float low = LARGEST, high = -LARGEST;
        for (int i = threadIdx.x; i < patches; i += blockDim.x) {
            const float kappa = cosine(i);
            low = fminf(low, kappa);
            high = fmaxf(high, kappa);
        }
        low = -block_max(-low, scratch);
        const float range = block_max(high, scratch) - low;
        for (int i = threadIdx.x; i < patches; i += blockDim.x) {
            const float weight = range > 0.0f ? (cosine(i) - low) / range : 1.0f;
            map[i] += weight * dot(d_o, qkv + (i64(i + 1) * 3 + 2) * D, D);
        }
    }
    for (int i = threadIdx.x; i < patches; i += blockDim.x) map[i] = fmaxf(map[i], 0.0f);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void heatmap_grad_eclip__1__##T(float* map, const T* d_o, const T* qkv, int B, int tokens, int queries,     \
                                           int D) {                                                                    \
        grad_eclip(map, d_o, qkv, B, tokens, queries, D);                                                              \
    }                                                                                                                  \
    REGISTER_KERNEL(heatmap_grad_eclip__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
