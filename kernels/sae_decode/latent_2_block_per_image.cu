// sae_decode / latent_2_block_per_image.cu                                                              rung 2 of 2
// out  score (B) f32: the sum of one latent's z over an image's tokens
// in   the code's index (B T,C+1) u32, z (B T,C) f32
// idea        a block an image; its warps take rows in turn and look at 32 slots at a time
// needs       any GPU; any sizes; block of whole warps
// bytes/flops 4*T*(count + 1) bytes for each image; T additions
// predicted   below 10 us for T = 257 and 64 slots: 33 rows a warp, two dependent loads each
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_decode.rs
#include "include/reduce.cuh"

KERNEL void __launch_bounds__(256)
    sae_decode_latent__2__f32(float* score, const u32* index, const float* z, int latent, int tokens, int C) {
    SHARED(float[256 / WARP_SIZE], scratch);
    const i64 b = blockIdx.x;
    const u32 lane = threadIdx.x % WARP_SIZE;
    float sum = 0.0f;
    for (int t = threadIdx.x / WARP_SIZE; t < tokens; t += blockDim.x / WARP_SIZE) {
        const i64 n = b * tokens + t;
        const u32* row = index + n * (C + 1);
        for (u32 slot = lane; slot < row[0]; slot += WARP_SIZE) {
            if (row[1 + slot] == u32(latent)) sum += z[n * C + slot];
        }
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) score[b] = sum;
}
REGISTER_KERNEL(sae_decode_latent__2__f32)
