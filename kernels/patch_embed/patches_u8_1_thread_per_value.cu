// patch_embed / patches_u8_1_thread_per_value.cu                                                        rung 1 of 2
// out  patches (B,T,stride) T: rows of 3 p p values (channel, y, x), zeros after them; the CLS row is zero
// in   picture (B,height,width,3) u8, table (3,256) f32: the normalised value of each byte; T = rows * cols + 1
//                                                                                      T = f32, f16 or bf16
// idea        patches straight from bytes: a quarter of the bytes read, and no pixels in memory. The table makes the
//             values those of the processor exactly, rounded once to T
// needs       any GPU; any sizes with stride >= 3 p p
// bytes/flops 3 read and 3 sizeof(T) written for a pixel; no flops
// predicted   40 % of the card's bandwidth: the bytes of a warp lie 3 apart, so that their sectors are read 3 times from L1
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/patch_embed.rs
#include "include/types.cuh"

template <class T>
DEV void to_patches(T* patches, const u8* picture, const float* table, int stride, int rows, int cols, int p, int height,
                    int width, i64 n) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const int i = at % stride, tokens = rows * cols + 1, token = at / stride % tokens;
    const i64 image = at / stride / tokens;
    float value = 0.0f;
    if (token > 0 && i < 3 * p * p) {
        const int y = (token - 1) / cols * p + i / p % p, x = (token - 1) % cols * p + i % p, channel = i / (p * p);
        value = table[channel * 256 + picture[((image * height + y) * width + x) * 3 + channel]];
    }
    patches[at] = from_float<T>(value);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void patch_embed_patches_u8__1__##T(T* patches, const u8* picture, const float* table, int stride,          \
                                               int rows, int cols, int p, int height, int width, i64 n) {              \
        to_patches(patches, picture, table, stride, rows, cols, p, height, width, n);                                  \
    }                                                                                                                  \
    REGISTER_KERNEL(patch_embed_patches_u8__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
