// preprocess / forward_1_thread_per_pixel.cu                                                            rung 1 of 2
// out  pixels (B,3,height,width) f32
// in   picture (B,height,width,3) u8, resized and cropped; table (3,256) f32: the normalised value of each byte
// idea        the obvious loop: one thread makes a pixel's three values. The table makes them the processor's exactly
// needs       any GPU; any sizes
// bytes/flops 3 read and 12 written for a pixel; no flops
// predicted   60 % of rung 2: single bytes, 3 apart
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/preprocess.rs
#include "include/types.cuh"

// `area` = height * width, n = B * area.
KERNEL void preprocess_forward__1__f32(float* pixels, const u8* picture, const float* table, i64 area, i64 n) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const i64 image = at / area;
    for (int c = 0; c < 3; c++) pixels[(image * 3 + c) * area + at % area] = table[c * 256 + picture[at * 3 + c]];
}
REGISTER_KERNEL(preprocess_forward__1__f32)
