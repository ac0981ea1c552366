// patch_embed / patches_1_thread_per_value.cu                                                           rung 1 of 2
// out  patches (B,T,stride) T: rows of 3 p p values (channel, y, x), zeros after them; the CLS row is zero
// in   pixels (B,3,height,width) f32; T = rows * cols + 1                              T = f32, f16 or bf16
// idea        the obvious loop: one thread makes one value. The product with the weight follows as a gemm
// needs       any GPU; any sizes with stride >= 3 p p
// bytes/flops 12 read and 3 sizeof(T) written for a pixel; no flops
// predicted   half of rung 2: whole sectors, but one value a thread
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/patch_embed.rs
#include "include/types.cuh"

template <class T>
DEV void to_patches(T* patches, const float* pixels, int stride, int rows, int cols, int p, int height, int width, i64 n) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const int i = at % stride, tokens = rows * cols + 1, token = at / stride % tokens;
    const i64 image = at / stride / tokens;
    float value = 0.0f;
    if (token > 0 && i < 3 * p * p) {
        const int y = (token - 1) / cols * p + i / p % p, x = (token - 1) % cols * p + i % p;
        value = pixels[((image * 3 + i / (p * p)) * height + y) * width + x];
    }
    patches[at] = from_float<T>(value);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void patch_embed_patches__1__##T(T* patches, const float* pixels, int stride, int rows, int cols, int p,    \
                                            int height, int width, i64 n) {                                            \
        to_patches(patches, pixels, stride, rows, cols, p, height, width, n);                                          \
    }                                                                                                                  \
    REGISTER_KERNEL(patch_embed_patches__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
