// sae_decode / reverse_1_thread_per_row.cu                                                              rung 1 of 2
// out  dx (G,D) T; dz (G,C) f32: the gradient of z', 0 in slots that are not used
// in   dy (G,D), x (N,D) T; the code: index (N,C+1) u32, z, edited, slope, edit_slope (N,C) f32; encoder, decoder (S,D) T;
//      bias (D) f32; row_norms (S) f32 or null; mask (tokens) u8: the gradient passes a row unless mask[n % tokens]
//      gradient row i belongs to forward row i % N                                      T = f32, f16 or bf16
// idea        the obvious loops, in two parts: a thread makes one value of dz; a thread makes one row of dx from it, and
//             sums the latents' rows twice, for the norm's means and for the values, since it has nowhere to keep them
// needs       any GPU; any sizes
// bytes/flops count rows of D values gathered three times for each row; 6*count*D flops
// predicted   uncoalesced: 1/30 of rung 2
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_decode.rs
#include "include/sae.cuh"

template <class T>
DEV void latents(float* dz, const T* dy, const T* x, const u32* index, const T* decoder, const float* row_norms, int norm,
                 float norm_value, const u8* mask, int tokens, int N, int G, int C, int D) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x, g = at / C, n = g % N;
    const u32 slot = at % C;
    if (g >= G) return;
    dz[at] = 0.0f;
    const u32* row = index + n * (C + 1);
    if (!mask[n % tokens] || slot >= row[0]) return;
    const u32 i = row[1 + slot];
    float sum = 0.0f;
    for (int d = 0; d < D; d++) sum += to_float(decoder[i64(i) * D + d]) * to_float(dy[g * D + d]);
    const sae::Normed normed = sae::normed_row(norm, norm_value, D, x + n * D);
    dz[at] = sum / (row_norms ? row_norms[i] : 1.0f) * normed.scale;
}

template <class T>
DEV void input(T* dx, const float* dz, const T* dy, const T* x, const u32* index, const float* z, const float* edited,
               const float* slope, const float* edit_slope, const T* encoder, const float* bias, int norm,
               float norm_value, int how, int through, const u8* mask, int tokens, int N, int G, int C, int D) {
    const i64 g = i64(blockIdx.x) * blockDim.x + threadIdx.x, n = g % N;
    if (g >= G) return;
    dx += g * D;
    dy += g * D;
    dz += g * C;
    if (!mask[n % tokens] || through == sae::STRAIGHT) {
        for (int d = 0; d < D; d++) dx[d] = dy[d];
        return;
    }
    x += n * D;
    z += n * C;
    edited += n * C;
    slope += n * C;
    edit_slope += n * C;
    const u32* row = index + n * (C + 1);
    // The error is kept and differentiated in this mode only; else the gradient passes the latents alone.
    const bool has_error = how == sae::KEEP_ERROR && through == sae::EXACT;
    const sae::Normed normed = sae::normed_row(norm, norm_value, D, x);

    float dscale = 0.0f, sum_dy = 0.0f;
    if (!has_error) {
        for (int d = 0; d < D; d++) {
            dscale += bias[d] * to_float(dy[d]) * normed.scale;
            sum_dy += to_float(dy[d]);
        }
    }
    for (u32 slot = 0; slot < row[0]; slot++) dscale += (edited[slot] - (has_error ? z[slot] : 0.0f)) * dz[slot];
    auto du = [&](int d) {
        float sum = 0.0f;
        for (u32 slot = 0; slot < row[0]; slot++) {
            const float weight = (edit_slope[slot] - (has_error ? 1.0f : 0.0f)) * slope[slot] * dz[slot];
            if (weight != 0.0f) sum += weight * to_float(encoder[i64(row[1 + slot]) * D + d]);
        }
        return sum;
    };
    float sum_du = 0.0f, along = 0.0f;
    if (norm != sae::FIXED) {
        for (int d = 0; d < D; d++) {
            const float value = du(d);
            sum_du += value;
            along += value * (to_float(x[d]) - normed.shift);
        }
    }
    const sae::NormReverse to = sae::norm_reverse(norm, normed, D, sum_du, along, dscale);
    // y = std (...) + mean(x): the mean's own way.
    const float mean = norm == sae::LAYER_NORM ? sum_dy / D : 0.0f;
    for (int d = 0; d < D; d++) {
        const float base = has_error ? to_float(dy[d]) : mean;
        dx[d] = from_float<T>(base + to.gain * du(d) + to.offset + to.pull * (to_float(x[d]) - normed.shift));
    }
}

#define ENTRY(T)                                                                                                       \
    KERNEL void sae_decode_reverse_latents__1__##T(float* dz, const T* dy, const T* x, const u32* index,               \
                                                   const T* decoder, const float* row_norms, int norm,                 \
                                                   float norm_value, const u8* mask, int tokens, int N, int G, int C,  \
                                                   int D) {                                                            \
        latents(dz, dy, x, index, decoder, row_norms, norm, norm_value, mask, tokens, N, G, C, D);                     \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_decode_reverse_latents__1__##T)                                                                \
    KERNEL void sae_decode_reverse_input__1__##T(T* dx, const float* dz, const T* dy, const T* x, const u32* index,    \
                                                 const float* z, const float* edited, const float* slope,              \
                                                 const float* edit_slope, const T* encoder, const float* bias,         \
                                                 int norm, float norm_value, int how, int through, const u8* mask,     \
                                                 int tokens, int N, int G, int C, int D) {                             \
        input(dx, dz, dy, x, index, z, edited, slope, edit_slope, encoder, bias, norm, norm_value, how, through, mask, \
              tokens, N, G, C, D);                                                                                     \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_decode_reverse_input__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
