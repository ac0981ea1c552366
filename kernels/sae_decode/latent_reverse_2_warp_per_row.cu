// sae_decode / latent_reverse_2_warp_per_row.cu                                                         rung 2 of 2
// out  dx (N,D) T: the gradient of one latent's sum over the tokens
// in   x (N,D) T; the code's index (N,C+1) u32, slope (N,C) f32; encoder (S,D) T        T = f32, f16 or bf16
// idea        a warp looks at 32 slots of its row at a time; where the latent fires it sends the encoder's row through the
//             norm, 16 bytes a lane, else it writes zeros
// needs       any GPU; D a multiple of 16 bytes, pointers aligned to 16; block of whole warps
// bytes/flops 1 write of N*D values and, where the latent fires, 1 read; about 8*D flops there
// predicted   limited by memory: 80 % of the card's bandwidth
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_decode.rs
#include "include/sae_rows.cuh"

template <class T>
DEV void latent_reverse(T* dx, const T* x, const u32* index, const float* slope, const T* encoder, int latent, int norm,
                        float norm_value, int N, int C, int D) {
    constexpr int SIZE = Vec<T>::SIZE;
    const int lane = threadIdx.x % WARP_SIZE;
    const i64 n = (i64(blockIdx.x) * blockDim.x + threadIdx.x) / WARP_SIZE;
    if (n >= N) return;
    x += n * D;
    dx += n * D;
    encoder += i64(latent) * D;
    const u32* row = index + n * (C + 1);
    float weight = 0.0f;
    for (u32 slot = lane; slot < row[0]; slot += WARP_SIZE) {
        if (row[1 + slot] == u32(latent)) weight = slope[n * C + slot];
    }
    // One lane at most has it.
    weight = warp_sum(weight);
    if (weight == 0.0f) {
        for (int d = lane * SIZE; d < D; d += WARP_SIZE * SIZE) {
            Vec<T> zeros;
#pragma unroll
            for (int e = 0; e < SIZE; e++) zeros.at[e] = from_float<T>(0.0f);
            store_vec(dx + d, zeros);
        }
        return;
    }
    const sae::Normed normed = sae::normed_warp(norm, norm_value, D, x);
    float sum_du = 0.0f, along = 0.0f;
    for (int d = lane * SIZE; d < D; d += WARP_SIZE * SIZE) {
        const Vec<T> v = load_vec(x + d), w = load_vec(encoder + d);
#pragma unroll
        for (int e = 0; e < SIZE; e++) {
            const float du = weight * to_float(w.at[e]);
            sum_du += du;
            along += du * (to_float(v.at[e]) - normed.shift);
        }
    }
    const sae::NormReverse to = sae::norm_reverse(norm, normed, D, warp_sum(sum_du), warp_sum(along), 0.0f);
    for (int d = lane * SIZE; d < D; d += WARP_SIZE * SIZE) {
        const Vec<T> v = load_vec(x + d), w = load_vec(encoder + d);
        Vec<T> out;
#pragma unroll
        for (int e = 0; e < SIZE; e++) {
            const float du = weight * to_float(w.at[e]);
            out.at[e] = from_float<T>(to.gain * du + to.offset + to.pull * (to_float(v.at[e]) - normed.shift));
        }
        store_vec(dx + d, out);
    }
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(256)                                                                                 \
        sae_decode_latent_reverse__2__##T(T* dx, const T* x, const u32* index, const float* slope, const T* encoder,   \
                                          int latent, int norm, float norm_value, int N, int C, int D) {               \
        latent_reverse(dx, x, index, slope, encoder, latent, norm, norm_value, N, C, D);                               \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_decode_latent_reverse__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
