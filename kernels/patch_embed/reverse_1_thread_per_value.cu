// patch_embed / reverse_1_thread_per_value.cu                                                           rung 1 of 2
// out  dpixels (G,3,height,width) f32: zero where no whole patch lies
// in   dpatches (G,T,stride) T: rows of 3 p p values (channel, y, x); the CLS row and what follows a row are not read
//                                                                                      T = f32, f16 or bf16
// idea        the obvious loop: one thread makes one value; neighbours write a line, and read it in runs of p
// needs       any GPU; any sizes with stride >= 3 p p
// bytes/flops 3 sizeof(T) read and 12 written for a pixel; no flops
// predicted   limited by memory: 60 % of the card's bandwidth, for the runs of p end inside of sectors
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/patch_embed.rs
#include "include/types.cuh"

template <class T>
DEV void from_patches(float* dpixels, const T* dpatches, int stride, int rows, int cols, int p, int height, int width,
                      i64 n) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const int x = at % width, y = at / width % height, channel = at / width / height % 3;
    const i64 image = at / width / height / 3;
    float value = 0.0f;
    if (y < rows * p && x < cols * p) {
        const i64 row = image * (rows * cols + 1) + 1 + y / p * cols + x / p;
        value = to_float(dpatches[row * stride + (channel * p + y % p) * p + x % p]);
    }
    dpixels[at] = value;
}

#define ENTRY(T)                                                                                                       \
    KERNEL void patch_embed_reverse__1__##T(float* dpixels, const T* dpatches, int stride, int rows, int cols, int p,  \
                                            int height, int width, i64 n) {                                            \
        from_patches(dpixels, dpatches, stride, rows, cols, p, height, width, n);                                      \
    }                                                                                                                  \
    REGISTER_KERNEL(patch_embed_reverse__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
