// sae_decode / latent_reverse_1_thread_per_row.cu                                                       rung 1 of 2
// out  dx (N,D) T: the gradient of one latent's sum over the tokens
// in   x (N,D) T; the code's index (N,C+1) u32, slope (N,C) f32; encoder (S,D) T        T = f32, f16 or bf16
// idea        the obvious loops: a thread finds the latent in its row and sends its encoder row through the norm
// needs       any GPU; any sizes
// bytes/flops 1 read + 1 write of N*D values at most; about 8*D flops where the latent fires
// predicted   uncoalesced: 1/8 of the memory's bandwidth, once for each image
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_decode.rs
#include "include/sae.cuh"

template <class T>
DEV void latent_reverse(T* dx, const T* x, const u32* index, const float* slope, const T* encoder, int latent, int norm,
                        float norm_value, int N, int C, int D) {
    const i64 n = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= N) return;
    x += n * D;
    dx += n * D;
    encoder += i64(latent) * D;
    const u32* row = index + n * (C + 1);
    u32 slot = 0;
    while (slot < row[0] && row[1 + slot] != u32(latent)) slot++;
    const float weight = slot < row[0] ? slope[n * C + slot] : 0.0f;
    if (weight == 0.0f) {
        for (int d = 0; d < D; d++) dx[d] = from_float<T>(0.0f);
        return;
    }
    const sae::Normed normed = sae::normed_row(norm, norm_value, D, x);
    float sum_du = 0.0f, along = 0.0f;
    for (int d = 0; d < D; d++) {
        const float du = weight * to_float(encoder[d]);
        sum_du += du;
        along += du * (to_float(x[d]) - normed.shift);
    }
    const sae::NormReverse to = sae::norm_reverse(norm, normed, D, sum_du, along, 0.0f);
    for (int d = 0; d < D; d++) {
        const float du = weight * to_float(encoder[d]);
        dx[d] = from_float<T>(to.gain * du + to.offset + to.pull * (to_float(x[d]) - normed.shift));
    }
}

#define ENTRY(T)                                                                                                       \
    KERNEL void sae_decode_latent_reverse__1__##T(T* dx, const T* x, const u32* index, const float* slope,             \
                                                  const T* encoder, int latent, int norm, float norm_value, int N,     \
                                                  int C, int D) {                                                      \
        latent_reverse(dx, x, index, slope, encoder, latent, norm, norm_value, N, C, D);                               \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_decode_latent_reverse__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
