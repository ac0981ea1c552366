// heatmap / grad_cam_1_block_per_map.cu                                                                 rung 1 of 2
// out  map (G,P) f32 = relu(<mean over the patches of dx, x_i>), P = T - 1 (Grad-CAM)
// in   dx (G,T,D) T, x (B,T,D) T; map g belongs to image g % B                          T = f32, f16 or bf16
// idea        the obvious loop: a block per map; for 256 columns at a time a thread sums one column over the patches, then
//             a thread per patch multiplies
// needs       any GPU; any sizes; 256 threads
// bytes/flops 2 reads of P*D values; 4*P*D flops
// predicted   a quarter of rung 2: x is read with a row between neighbouring threads
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/heatmap.rs
#include "include/reduce.cuh"

constexpr int COLUMNS = 256;

template <class T> DEV void grad_cam(float* map, const T* dx, const T* x, int B, int tokens, int D) {
    SHARED(float[COLUMNS], alpha);
    const int g = blockIdx.x, patches = tokens - 1;
    map += i64(g) * patches;
    // The CLS token has no part.
    dx += i64(g) * tokens * D + D;
    x += i64(g % B) * tokens * D + D;
    for (int i = threadIdx.x; i < patches; i += COLUMNS) map[i] = 0.0f;
    for (int d0 = 0; d0 < D; d0 += COLUMNS) {
        const int d = d0 + threadIdx.x, columns = D - d0 < COLUMNS ? D - d0 : COLUMNS;
        float sum = 0.0f;
        for (int i = 0; i < patches && d < D; i++) sum += to_float(dx[i64(i) * D + d]);
        alpha[threadIdx.x] = sum;
        block_barrier();
        for (int i = threadIdx.x; i < patches; i += COLUMNS) {
            for (int c = 0; c < columns; c++) map[i] += alpha[c] * to_float(x[i64(i) * D + d0 + c]);
        }
        block_barrier();
    }
    for (int i = threadIdx.x; i < patches; i += COLUMNS) map[i] = fmaxf(map[i] / patches, 0.0f);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void heatmap_grad_cam__1__##T(float* map, const T* dx, const T* x, int B, int tokens, int D) {              \
        grad_cam(map, dx, x, B, tokens, D);                                                                            \
    }                                                                                                                  \
    REGISTER_KERNEL(heatmap_grad_cam__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
