// heatmap / grad_cam_2_warp_per_patch.cu                                                                rung 2 of 2
// out  map (G,P) f32 = relu(<mean over the patches of dx, x_i>), P = T - 1 (Grad-CAM)
// in   dx (G,T,D) T, x (B,T,D) T; map g belongs to image g % B                          T = f32, f16 or bf16
// idea        a block per map: the warps share the rows of dx and add their sums in shared memory, then each takes patches
//             of x, 16 bytes a lane
// needs       any GPU; D a multiple of 16 bytes, pointers aligned to 16; 256 threads; D floats of dynamic shared memory
// bytes/flops 2 reads of P*D values; 3*P*D flops
// predicted   limited by memory from G of 100 on: 60 % of the card's bandwidth
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/heatmap.rs
#include "include/rows.cuh"

constexpr int THREADS = SUM_WARPS * WARP_SIZE;

template <class T> DEV void grad_cam(float* map, const T* dx, const T* x, int B, int tokens, int D) {
    constexpr int SIZE = Vec<T>::SIZE;
    DYNAMIC_SHARED(memory);
    float* const alpha = reinterpret_cast<float*>(memory);
    SHARED(float[SUM_WARPS][SUMMED<T>], partial);
    const int g = blockIdx.x, patches = tokens - 1;
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    // The CLS token has no part.
    dx += i64(g) * tokens * D + D;
    x += i64(g % B) * tokens * D + D;
    for (int column = 0; column < D; column += SUMMED<T>) {
        sum_columns(partial, dx, patches, D, column);
        for (int c = threadIdx.x; c < SUMMED<T> && column + c < D; c += THREADS) alpha[column + c] = partial[0][c] / patches;
        block_barrier();
    }
    for (int i = warp; i < patches; i += SUM_WARPS) {
        float dot = 0.0f;
        for (int at = lane * SIZE; at < D; at += WARP_SIZE * SIZE) {
            dot = multiply_add(alpha + at, load_vec(x + i64(i) * D + at), dot);
        }
        dot = warp_sum(dot);
        if (lane == 0) map[i64(g) * patches + i] = fmaxf(dot, 0.0f);
    }
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(THREADS, 4)                                                                             \
        heatmap_grad_cam__2__##T(float* map, const T* dx, const T* x, int B, int tokens, int D) {                      \
        grad_cam(map, dx, x, B, tokens, D);                                                                            \
    }                                                                                                                  \
    REGISTER_KERNEL(heatmap_grad_cam__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
