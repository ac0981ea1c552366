// sae_decode / forward_2_block_per_row.cu                                                               rung 2 of 2
// out  y (N,D) T: x with the code put back
// in   x (N,D) T; the code's index (N,C+1) u32, z, edited (N,C) f32; w (S,D) T; bias (D) f32; mean (D), row_norms (S) f32 or
//      null; mask (tokens) u8: row n is copied unless mask[n % tokens]                  T = f32, f16 or bf16
//      replace: y = (w^T (edited / row_norms) + bias) scale + shift; keep error: y = x + scale w^T ((edited - z) / row_norms)
// idea        a thread makes 16 bytes of y; the block stages the latents with their weights in shared memory, without those
//             of weight 0, and then reads four decoder rows at a time, whole and 16 bytes a lane
// needs       any GPU; D a multiple of 16 bytes, at most 512 of them; pointers aligned to 16; D / 16 bytes threads, rounded
//             up to whole warps
// bytes/flops (count + 2) rows of D values for each row; 2*count*D flops
// predicted   limited by L2: 70 % of the rate of gathers that hit it
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_decode.rs
#include "include/sae_rows.cuh"

template <class T>
DEV void splice(T* y, const T* x, const u32* index, const float* z, const float* edited, const T* w, const float* bias,
                const float* mean, const float* row_norms, int norm, float norm_value, int how, const u8* mask, int tokens,
                int C, int D) {
    constexpr int SIZE = Vec<T>::SIZE;
    SHARED(sae::Stage, stage);
    const i64 n = blockIdx.x;
    const int at = threadIdx.x * SIZE;
    const bool is_inside = at < D;
    Vec<T> row = {};
    if (is_inside) row = load_vec(x + n * D + at);
    if (!mask[n % tokens]) {
        if (is_inside) store_vec(y + n * D + at, row);
        return;
    }
    const sae::Normed normed = sae::normed_block(norm, norm_value, D, row, is_inside, stage.sums);
    const u32 count = index[n * (C + 1)];
    const u32* latents = index + n * (C + 1) + 1;

    float sum[SIZE] = {};
    sae::add_rows(sum, w, D, latents, count, stage, [&](u32 slot) {
        const float held = how == sae::KEEP_ERROR ? z[n * C + slot] : 0.0f, value = edited[n * C + slot];
        if (value == held) return 0.0f;
        return (value - held) / (row_norms ? row_norms[latents[slot]] : 1.0f);
    });
    if (!is_inside) return;
#pragma unroll
    for (int i = 0; i < SIZE; i += 4) {
        const Vec<float> plus = load_vec(bias + at + i);
        Vec<float> means = {normed.shift, normed.shift, normed.shift, normed.shift};
        if (mean) means = load_vec(mean + at + i);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float value;
            if (how == sae::KEEP_ERROR) value = to_float(row.at[i + e]) + sum[i + e] * normed.scale;
            else value = (sum[i + e] + plus.at[e]) * normed.scale + means.at[e];
            row.at[i + e] = from_float<T>(value);
        }
    }
    store_vec(y + n * D + at, row);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(sae::MOST_THREADS)                                                                   \
        sae_decode_forward__2__##T(T* y, const T* x, const u32* index, const float* z, const float* edited,            \
                                   const T* w, const float* bias, const float* mean, const float* row_norms, int norm, \
                                   float norm_value, int how, const u8* mask, int tokens, int C, int D) {              \
        splice(y, x, index, z, edited, w, bias, mean, row_norms, norm, norm_value, how, mask, tokens, C, D);           \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_decode_forward__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
