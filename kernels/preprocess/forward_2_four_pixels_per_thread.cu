// preprocess / forward_2_four_pixels_per_thread.cu                                                      rung 2 of 2
// out  pixels (B,3,height,width) f32
// in   picture (B,height,width,3) u8, resized and cropped; table (3,256) f32: the normalised value of each byte
// idea        a thread reads 4 pixels as 3 words and writes 16 bytes to each channel; the table lies in shared memory
// needs       any GPU; height * width a multiple of 4, picture aligned to 4, pixels to 16
// bytes/flops 3 read and 12 written for a pixel; no flops
// predicted   limited by memory: 80 % of the card's bandwidth; the table's banks collide about 3 ways on random bytes
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/preprocess.rs
#include "include/barrier.cuh"
#include "include/vec.cuh"

// `area` = height * width, n = B * area.
KERNEL void __launch_bounds__(256)
    preprocess_forward__2__f32(float* pixels, const u8* picture, const float* table, i64 area, i64 n) {
    SHARED(float[3 * 256], values);
    for (int i = threadIdx.x; i < 3 * 256; i += blockDim.x) values[i] = table[i];
    block_barrier();
    const i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
    if (at >= n) return;
    u32 word[3];
#pragma unroll
    for (int i = 0; i < 3; i++) word[i] = reinterpret_cast<const u32*>(picture + at * 3)[i];
    const i64 image = at / area;
#pragma unroll
    for (int c = 0; c < 3; c++) {
        Vec<float> out;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int byte = e * 3 + c;
            out.at[e] = values[c * 256 + (word[byte / 4] >> byte % 4 * 8 & 255)];
        }
        store_vec(pixels + (image * 3 + c) * area + (at - image * area), out);
    }
}
REGISTER_KERNEL(preprocess_forward__2__f32)
