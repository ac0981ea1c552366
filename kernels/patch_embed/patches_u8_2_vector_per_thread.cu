// patch_embed / patches_u8_2_vector_per_thread.cu                                                       rung 2 of 2
// out  patches (B,T,stride) T: rows of 3 p p values (channel, y, x), zeros after them; the CLS row is zero
// in   picture (B,height,width,3) u8, table (3,256) f32: the normalised value of each byte; T = rows * cols + 1
//                                                                                      T = f32, f16 or bf16
// idea        as patches 2, with the table in shared memory
// needs       any GPU; stride a multiple of 16 bytes, patches aligned to 16
// bytes/flops 3 read and 3 sizeof(T) written for a pixel; no flops
// predicted   60 % of the card's bandwidth: writes are whole, but each byte is a load of its own
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/patch_embed.rs
#include "include/barrier.cuh"
#include "include/patch.cuh"
#include "include/vec.cuh"

template <class T>
DEV void to_patches(T* patches, const u8* picture, const float* table, int stride, int rows, int cols, int p, int height,
                    int width, i64 n) {
    constexpr int SIZE = Vec<T>::SIZE;
    SHARED(float[3 * 256], values);
    for (int i = threadIdx.x; i < 3 * 256; i += blockDim.x) values[i] = table[i];
    block_barrier();
    const i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * SIZE;
    if (at >= n) return;
    const int tokens = rows * cols + 1;
    const i64 row = at / stride;
    picture += row / tokens * 3 * height * width;
    float value[SIZE];
    patch_values(value, int(row % tokens), int(at - row * stride), cols, p, [&](int channel, int y, int x) {
        return values[channel * 256 + picture[(i64(y) * width + x) * 3 + channel]];
    });
    Vec<T> out;
#pragma unroll
    for (int e = 0; e < SIZE; e++) out.at[e] = from_float<T>(value[e]);
    store_vec(patches + at, out);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(256)                                                                                 \
        patch_embed_patches_u8__2__##T(T* patches, const u8* picture, const float* table, int stride, int rows,        \
                                       int cols, int p, int height, int width, i64 n) {                                \
        to_patches(patches, picture, table, stride, rows, cols, p, height, width, n);                                  \
    }                                                                                                                  \
    REGISTER_KERNEL(patch_embed_patches_u8__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
