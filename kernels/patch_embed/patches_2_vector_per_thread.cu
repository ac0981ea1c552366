// patch_embed / patches_2_vector_per_thread.cu                                                          rung 2 of 2
// out  patches (B,T,stride) T: rows of 3 p p values (channel, y, x), zeros after them; the CLS row is zero
// in   pixels (B,3,height,width) f32; T = rows * cols + 1                              T = f32, f16 or bf16
// idea        a thread makes 16 bytes of a row; the pixels of a warp's runs of p are found in L1
// needs       any GPU; stride a multiple of 16 bytes, patches aligned to 16
// bytes/flops 12 read and 3 sizeof(T) written for a pixel; no flops
// predicted   limited by memory: 70 % of the card's bandwidth, for the runs of p end inside of sectors
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/patch_embed.rs
#include "include/patch.cuh"
#include "include/vec.cuh"

template <class T>
DEV void to_patches(T* patches, const float* pixels, int stride, int rows, int cols, int p, int height, int width, i64 n) {
    constexpr int SIZE = Vec<T>::SIZE;
    const i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * SIZE;
    if (at >= n) return;
    const int tokens = rows * cols + 1;
    const i64 row = at / stride;
    pixels += row / tokens * 3 * height * width;
    float value[SIZE];
    patch_values(value, int(row % tokens), int(at - row * stride), cols, p,
                 [&](int channel, int y, int x) { return pixels[(i64(channel) * height + y) * width + x]; });
    Vec<T> out;
#pragma unroll
    for (int e = 0; e < SIZE; e++) out.at[e] = from_float<T>(value[e]);
    store_vec(patches + at, out);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(256)                                                                                 \
        patch_embed_patches__2__##T(T* patches, const float* pixels, int stride, int rows, int cols, int p,            \
                                    int height, int width, i64 n) {                                                    \
        to_patches(patches, pixels, stride, rows, cols, p, height, width, n);                                          \
    }                                                                                                                  \
    REGISTER_KERNEL(patch_embed_patches__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
