// sae_encode / forward_1_thread_per_row.cu                                                              rung 1 of 3
// out  the code of rows first.. first+rows of x: index (N,C+1) u32, z, edited, slope, edit_slope (N,C) f32
//      pre (rows,S) f32: h
// in   x (N,D) T, w (S,D) T, bias (S) f32; input_bias, mean (D), row_norms (S) f32 or null; the activation's parameters;
//      edits, see include/sae.cuh; mask (tokens) u8: row n is coded if mask[n % tokens]   T = f32, f16 or bf16
//      h = (w (norm(x) - input_bias) + bias) row_norms. The k largest come by value, then index; all else by index.
//      NaN never fires.
// idea        the obvious loops: a thread makes one pre-activation; a thread selects a row's latents one after another
// needs       any GPU; any sizes
// bytes/flops (N*D + S*D) values and 8*N*S bytes; about 4*N*S*D flops
// predicted   product: limited by L1 loads, 1 % of the tensor cores' rate; selection: a few ms for each piece of rows
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_encode.rs
#include "include/sae.cuh"

template <class T>
DEV void product(float* pre, const T* x, const T* w, const float* bias, const float* input_bias, const float* mean,
                 const float* row_norms, int norm, float norm_value, int first, int rows, int S, int D) {
    const int s = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row >= rows || s >= S) return;
    x += i64(first + row) * D;
    w += i64(s) * D;
    const sae::Normed at = sae::normed_row(norm, norm_value, D, x);
    float sum = 0.0f;
    for (int d = 0; d < D; d++) {
        const float u = (to_float(x[d]) - (mean ? mean[d] : at.shift)) / at.divisor;
        sum += (u - (input_bias ? input_bias[d] : 0.0f)) * to_float(w[d]);
    }
    pre[i64(row) * S + s] = (sum + bias[s]) * (row_norms ? row_norms[s] : 1.0f);
}

DEV void select(u32* index, float* z, float* edited, float* slope, float* edit_slope, const float* pre,
                const float* row_norms, int activation, int k, float theta, const float* parameters, const u32* edits,
                int edit_count, int forced_count, const u8* mask, int tokens, int first, int rows, int S, int C) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    const i64 n = first + row;
    index += n * (C + 1);
    z += n * C;
    slope += n * C;
    u32& count = *index++;
    count = 0;
    if (!mask[n % tokens]) return;
    const float* h = pre + i64(row) * S;

    int used = 0;
    auto write = [&](int at, u32 latent, float value, float gain) {
        index[at] = latent;
        z[at] = value;
        slope[at] = gain * (row_norms ? row_norms[latent] : 1.0f);
    };
    // Keeps the k largest in order. Latents come in ascending order, so one that is equal stays behind.
    auto insert = [&](u32 latent, float value) {
        if (used == k && !(value > z[k - 1])) return;
        int at = used < k ? used++ : k - 1;
        for (; at > 0 && value > z[at - 1]; at--) {
            index[at] = index[at - 1];
            z[at] = z[at - 1];
            slope[at] = slope[at - 1];
        }
        write(at, latent, value, 1.0f);
    };

    if (activation == sae::TOP_K || activation == sae::TOP_K_RELU) {
        for (int i = 0; i < S; i++) {
            // False for NaN.
            const bool counts = activation == sae::TOP_K ? h[i] == h[i] : h[i] > 0.0f;
            if (counts) insert(i, h[i]);
        }
    } else if (activation == sae::GROUP_MAX) {
        const int size = S / k;
        for (int group = 0; group < k; group++) {
            int best = -1;
            for (int i = group * size; i < (group + 1) * size; i++) {
                if (h[i] > (best < 0 ? 0.0f : h[best])) best = i;
            }
            if (best >= 0) write(used++, best, h[best], 1.0f);
        }
    } else {
        for (int i = 0; i < S; i++) {
            float value, gain;
            if (sae::fires(activation, theta, parameters, S, i, h[i], value, gain)) write(used++, i, value, gain);
        }
    }
    const u32* forced = sae::forced_latents(edits, edit_count);
    for (int f = 0; f < forced_count; f++) {
        int at = 0;
        while (at < used && index[at] != forced[f]) at++;
        if (at == used) write(used++, forced[f], 0.0f, 0.0f);
    }
    count = used;
    for (int at = 0; at < used; at++) {
        const sae::Edited to = sae::edit(edits, edit_count, index[at], z[at]);
        edited[n * C + at] = to.value;
        edit_slope[n * C + at] = to.slope;
    }
}

#define ENTRY(T)                                                                                                       \
    KERNEL void sae_encode_forward_product__1__##T(float* pre, const T* x, const T* w, const float* bias,              \
                                                   const float* input_bias, const float* mean, const float* row_norms, \
                                                   int norm, float norm_value, int first, int rows, int S, int D) {    \
        product(pre, x, w, bias, input_bias, mean, row_norms, norm, norm_value, first, rows, S, D);                    \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_encode_forward_product__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)

KERNEL void sae_encode_forward_select__1__f32(u32* index, float* z, float* edited, float* slope, float* edit_slope,
                                              const float* pre, const float* row_norms, int activation, int k, float theta,
                                              const float* parameters, const u32* edits, int edit_count, int forced_count,
                                              const u8* mask, int tokens, int first, int rows, int S, int C) {
    select(index, z, edited, slope, edit_slope, pre, row_norms, activation, k, theta, parameters, edits, edit_count,
           forced_count, mask, tokens, first, rows, S, C);
}
REGISTER_KERNEL(sae_encode_forward_select__1__f32)
