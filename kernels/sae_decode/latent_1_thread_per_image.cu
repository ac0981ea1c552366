// sae_decode / latent_1_thread_per_image.cu                                                             rung 1 of 2
// out  score (B) f32: the sum of one latent's z over an image's tokens
// in   the code's index (B T,C+1) u32, z (B T,C) f32
// idea        the obvious loop: a thread looks for the latent in every row of its image
// needs       any GPU; any sizes
// bytes/flops 4*T*(count + 1) bytes for each image; T additions
// predicted   microseconds: T*count dependent loads of a thread, below 1 % of a pass
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_decode.rs
#include "include/sae.cuh"

KERNEL void sae_decode_latent__1__f32(float* score, const u32* index, const float* z, int latent, int B, int tokens, int C) {
    const int b = blockIdx.x * blockDim.x + threadIdx.x;
    if (b >= B) return;
    float sum = 0.0f;
    for (int t = 0; t < tokens; t++) {
        const i64 n = i64(b) * tokens + t;
        const u32* row = index + n * (C + 1);
        for (u32 slot = 0; slot < row[0]; slot++) {
            if (row[1 + slot] == u32(latent)) sum += z[n * C + slot];
        }
    }
    score[b] = sum;
}
REGISTER_KERNEL(sae_decode_latent__1__f32)
