// patch_embed / reverse_2_vector_per_thread.cu                                                          rung 2 of 2
// out  dpixels (G,3,height,width) f32: zero where no whole patch lies
// in   dpatches (G,T,stride) T: rows of 3 p p values (channel, y, x); the CLS row and what follows a row are not read
//                                                                                      T = f32, f16 or bf16
// idea        a thread makes 4 neighbouring pixels, so that writes are whole; what it reads lies in one or two patches
// needs       any GPU; width a multiple of 4, dpixels aligned to 16
// bytes/flops 3 sizeof(T) read and 12 written for a pixel; no flops
// predicted   limited by memory: 70 % of the card's bandwidth, for the runs of p end inside of sectors
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/patch_embed.rs
#include "include/vec.cuh"

template <class T>
DEV void from_patches(float* dpixels, const T* dpatches, int stride, int rows, int cols, int p, int height, int width,
                      i64 n) {
    const i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
    if (at >= n) return;
    const i64 line = at / width;
    const int x0 = int(at - line * width), y = line % height, channel = line / height % 3;
    // The patch at the left edge, and its line of pixels.
    const i64 first = line / height / 3 * (rows * cols + 1) + 1 + y / p * cols;
    int col = x0 / p, x = x0 % p;
    Vec<float> value;
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const bool is_seen = y < rows * p && col < cols;
        value.at[e] = is_seen ? to_float(dpatches[(first + col) * stride + (channel * p + y % p) * p + x]) : 0.0f;
        if (++x == p) x = 0, col++;
    }
    store_vec(dpixels + at, value);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(256)                                                                                 \
        patch_embed_reverse__2__##T(float* dpixels, const T* dpatches, int stride, int rows, int cols, int p,          \
                                    int height, int width, i64 n) {                                                    \
        from_patches(dpixels, dpatches, stride, rows, cols, p, height, width, n);                                      \
    }                                                                                                                  \
    REGISTER_KERNEL(patch_embed_reverse__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
