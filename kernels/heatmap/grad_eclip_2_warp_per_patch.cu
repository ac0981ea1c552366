// heatmap / grad_eclip_2_warp_per_patch.cu                                                              rung 2 of 2
// out  map (G,P) f32 = relu(sum over query rows t of lambda_ti <d_o_t, v_i>), P = T - 1 (Grad-ECLIP)
// in   d_o (G,queries,D) T, qkv (B,T,3D) T; map g belongs to image g % B                T = f32, f16 or bf16
//      lambda_t = min-max over the patches of cos(q_t, k_i); all 1 where all are equal
// idea        a block per map, a warp per patch: <q,k>, <k,k> and <d_o,v> in one pass, 16 bytes a lane, with q and d_o in
//             shared memory. The cosines stay there until their range is known
// needs       any GPU; D a multiple of 16 bytes, pointers aligned to 16; 256 threads; 3 P + 2 D floats of shared memory
// bytes/flops for a query row that is not zero: 2 P D values read; 6 P D flops
// predicted   limited by memory for one query row and G of 100 or more: 60 % of the card's bandwidth. With all query rows,
//             limited by shared memory: 8 P D bytes a row
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/heatmap.rs
#include "include/rows.cuh"

constexpr int THREADS = 256;
// Beyond any cosine.
constexpr float LARGEST = 3.0e38f;

template <class T>
DEV void grad_eclip(float* map, const T* d_o, const T* qkv, int B, int tokens, int queries, int D) {
    constexpr int SIZE = Vec<T>::SIZE;
    DYNAMIC_SHARED(memory);
    SHARED(float[WARP_SIZE], scratch);
    const int g = blockIdx.x, patches = tokens - 1;
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    // Rows of D first: they are read 16 bytes at a time.
    float *const q = reinterpret_cast<float*>(memory), *const gradient = q + D;
    float *const sum = gradient + D, *const kappa = sum + patches, *const product = kappa + patches;
    d_o += i64(g) * queries * D;
    qkv += i64(g % B) * tokens * 3 * D;
    for (int i = threadIdx.x; i < patches; i += THREADS) sum[i] = 0.0f;
    for (int t = 0; t < queries; t++, d_o += D) {
        float squares = 0.0f, is_read = 0.0f;
        for (int i = threadIdx.x; i < D; i += THREADS) {
            q[i] = to_float(qkv[i64(t) * 3 * D + i]);
            gradient[i] = to_float(d_o[i]);
            squares += q[i] * q[i];
            if (gradient[i] != 0.0f) is_read = 1.0f;
        }
        // A token that the score does not read. The barriers inside make q and the gradient known to all.
        if (block_max(is_read, scratch) == 0.0f) continue;
        const float q_norm = sqrtf(block_sum(squares, scratch));
        float low = LARGEST, high = -LARGEST;
        for (int i = warp; i < patches; i += THREADS / WARP_SIZE) {
            const T* k = qkv + (i64(i + 1) * 3 + 1) * D;
            float qk = 0.0f, kk = 0.0f, dv = 0.0f;
            for (int at = lane * SIZE; at < D; at += WARP_SIZE * SIZE) {
                const Vec<T> key = load_vec(k + at), value = load_vec(k + D + at);
                qk = multiply_add(q + at, key, qk);
                dv = multiply_add(gradient + at, value, dv);
#pragma unroll
                for (int e = 0; e < SIZE; e++) kk += to_float(key.at[e]) * to_float(key.at[e]);
            }
            const float cosine = warp_sum(qk) / (q_norm * sqrtf(warp_sum(kk)));
            dv = warp_sum(dv);
            low = fminf(low, cosine);
            high = fmaxf(high, cosine);
            if (lane == 0) kappa[i] = cosine, product[i] = dv;
        }
        low = -block_max(-low, scratch);
        const float range = block_max(high, scratch) - low;
        for (int i = threadIdx.x; i < patches; i += THREADS) {
            sum[i] += (range > 0.0f ? (kappa[i] - low) / range : 1.0f) * product[i];
        }
    }
    // The thread that writes a patch's value is the one that summed it.
    for (int i = threadIdx.x; i < patches; i += THREADS) map[i64(g) * patches + i] = fmaxf(sum[i], 0.0f);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(THREADS, 2)                                                                             \
        heatmap_grad_eclip__2__##T(float* map, const T* d_o, const T* qkv, int B, int tokens, int queries, int D) {    \
        grad_eclip(map, d_o, qkv, B, tokens, queries, D);                                                              \
    }                                                                                                                  \
    REGISTER_KERNEL(heatmap_grad_eclip__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
