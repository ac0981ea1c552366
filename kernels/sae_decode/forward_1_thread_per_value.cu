// sae_decode / forward_1_thread_per_value.cu                                                            rung 1 of 2
// out  y (N,D) T: x with the code put back
// in   x (N,D) T; the code's index (N,C+1) u32, z, edited (N,C) f32; w (S,D) T; bias (D) f32; mean (D), row_norms (S) f32 or
//      null; mask (tokens) u8: row n is copied unless mask[n % tokens]                  T = f32, f16 or bf16
//      replace: y = (w^T (edited / row_norms) + bias) scale + shift; keep error: y = x + scale w^T ((edited - z) / row_norms)
// idea        the obvious loop over a row's slots: a thread makes one value
// needs       any GPU; any sizes
// bytes/flops count rows of D values gathered for each row; 2*count*D flops, and 2*D*D where the norm is the token's own
// predicted   limited by L1 and L2 loads of 2 bytes a lane: 1/4 to 1/8 of rung 2
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_decode.rs
#include "include/sae.cuh"

template <class T>
DEV void splice(T* y, const T* x, const u32* index, const float* z, const float* edited, const T* w, const float* bias,
                const float* mean, const float* row_norms, int norm, float norm_value, int how, const u8* mask, int tokens,
                int N, int C, int D) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x, n = at / D;
    const int d = at % D;
    if (n >= N) return;
    if (!mask[n % tokens]) {
        y[at] = x[at];
        return;
    }
    const sae::Normed normed = sae::normed_row(norm, norm_value, D, x + n * D);
    const u32* row = index + n * (C + 1);
    float sum = how == sae::REPLACE ? bias[d] : 0.0f;
    for (u32 slot = 0; slot < row[0]; slot++) {
        const u32 i = row[1 + slot];
        float value = edited[n * C + slot];
        if (how == sae::KEEP_ERROR) {
            if (value == z[n * C + slot]) continue;
            value -= z[n * C + slot];
        }
        sum += value / (row_norms ? row_norms[i] : 1.0f) * to_float(w[i64(i) * D + d]);
    }
    const float base = how == sae::KEEP_ERROR ? to_float(x[at]) : mean ? mean[d] : normed.shift;
    y[at] = from_float<T>(sum * normed.scale + base);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void sae_decode_forward__1__##T(T* y, const T* x, const u32* index, const float* z, const float* edited,    \
                                           const T* w, const float* bias, const float* mean, const float* row_norms,   \
                                           int norm, float norm_value, int how, const u8* mask, int tokens, int N,     \
                                           int C, int D) {                                                             \
        splice(y, x, index, z, edited, w, bias, mean, row_norms, norm, norm_value, how, mask, tokens, N, C, D);        \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_decode_forward__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
