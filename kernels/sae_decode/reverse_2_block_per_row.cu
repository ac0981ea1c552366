// sae_decode / reverse_2_block_per_row.cu                                                               rung 2 of 2
// out  dx (G,D) T; dz (G,C) f32: the gradient of z', 0 in slots that are not used
// in   dy (G,D), x (N,D) T; the code: index (N,C+1) u32, z, edited, slope, edit_slope (N,C) f32; encoder, decoder (S,D) T;
//      bias (D) f32; row_norms (S) f32 or null; mask (tokens) u8: the gradient passes a row unless mask[n % tokens]
//      gradient row i belongs to forward row i % N                                      T = f32, f16 or bf16
// idea        warps make dz, a latent each, from dy in shared memory; then each thread sums 16 bytes of the latents' encoder
//             rows as the forward does, and the norm's reverse takes three sums over the block
// needs       any GPU; D a multiple of 16 bytes, at most 512 of them; pointers aligned to 16; D / 16 bytes threads, rounded
//             up to whole warps; a row of dy in shared memory
// bytes/flops (2*count + 3) rows of D values for each row; 4*count*D flops
// predicted   limited by L2: 65 % of the rate of gathers that hit it
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_decode.rs
#include "include/sae_rows.cuh"

template <class T>
DEV void splice_reverse(T* dx, float* dz, const T* dy, const T* x, const u32* index, const float* z, const float* edited,
                        const float* slope, const float* edit_slope, const T* encoder, const T* decoder,
                        const float* bias, const float* row_norms, int norm, float norm_value, int how, int through,
                        const u8* mask, int tokens, int N, int C, int D) {
    constexpr int SIZE = Vec<T>::SIZE;
    SHARED(sae::Stage, stage);
    DYNAMIC_SHARED(memory);
    T* shared_dy = reinterpret_cast<T*>(memory);
    const i64 g = blockIdx.x, n = g % N;
    const int at = threadIdx.x * SIZE, lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    const int threads = blockDim.x;
    const bool is_inside = at < D, is_seen = mask[n % tokens];
    dz += g * C;
    Vec<T> row_dy = {}, row_x = {};
    if (is_inside) {
        row_dy = load_vec(dy + g * D + at);
        row_x = load_vec(x + n * D + at);
        store_vec(shared_dy + at, row_dy);
    }
    const u32 count = is_seen ? index[n * (C + 1)] : 0;
    const u32* latents = index + n * (C + 1) + 1;
    for (int slot = count + threadIdx.x; slot < C; slot += threads) dz[slot] = 0.0f;
    if (!is_seen) {
        if (is_inside) store_vec(dx + g * D + at, row_dy);
        return;
    }
    const sae::Normed normed = sae::normed_block(norm, norm_value, D, row_x, is_inside, stage.sums);
    block_barrier();
    for (u32 slot = warp; slot < count; slot += threads / WARP_SIZE) {
        const T* row = decoder + i64(latents[slot]) * D;
        float sum = 0.0f;
#pragma unroll 4
        for (int d = lane * SIZE; d < D; d += WARP_SIZE * SIZE) {
            const Vec<T> a = load_vec(row + d), b = load_vec(shared_dy + d);
#pragma unroll
            for (int e = 0; e < SIZE; e++) sum += to_float(a.at[e]) * to_float(b.at[e]);
        }
        sum = warp_sum(sum);
        if (lane == 0) dz[slot] = sum / (row_norms ? row_norms[latents[slot]] : 1.0f) * normed.scale;
    }
    if (through == sae::STRAIGHT) {
        if (is_inside) store_vec(dx + g * D + at, row_dy);
        return;
    }
    // What the warps wrote of dz is there.
    block_barrier();
    z += n * C;
    edited += n * C;
    slope += n * C;
    edit_slope += n * C;
    // The error is kept and differentiated in this mode only; else the gradient passes the latents alone.
    const bool has_error = how == sae::KEEP_ERROR && through == sae::EXACT;
    float du[SIZE] = {};
    sae::add_rows(du, encoder, D, latents, count, stage, [&](u32 slot) {
        return (edit_slope[slot] - (has_error ? 1.0f : 0.0f)) * slope[slot] * dz[slot];
    });

    float sum_dy = 0.0f, sum_du = 0.0f, along = 0.0f, dscale = 0.0f;
    if (norm != sae::FIXED) {
        for (u32 slot = threadIdx.x; slot < count; slot += threads) {
            dscale += (edited[slot] - (has_error ? z[slot] : 0.0f)) * dz[slot];
        }
        if (is_inside) {
#pragma unroll
            for (int i = 0; i < SIZE; i += 4) {
                const Vec<float> plus = load_vec(bias + at + i);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float v = to_float(row_dy.at[i + e]);
                    sum_dy += v;
                    if (!has_error) dscale += plus.at[e] * v * normed.scale;
                    sum_du += du[i + e];
                    along += du[i + e] * (to_float(row_x.at[i + e]) - normed.shift);
                }
            }
        }
        sum_dy = block_sum(sum_dy, stage.sums);
        sum_du = block_sum(sum_du, stage.sums);
        along = block_sum(along, stage.sums);
        dscale = block_sum(dscale, stage.sums);
    }
    if (!is_inside) return;
    const sae::NormReverse to = sae::norm_reverse(norm, normed, D, sum_du, along, dscale);
    // y = std (...) + mean(x): the mean's own way.
    const float mean = norm == sae::LAYER_NORM ? sum_dy / D : 0.0f;
#pragma unroll
    for (int e = 0; e < SIZE; e++) {
        const float base = has_error ? to_float(row_dy.at[e]) : mean;
        const float value = base + to.gain * du[e] + to.offset + to.pull * (to_float(row_x.at[e]) - normed.shift);
        row_dy.at[e] = from_float<T>(value);
    }
    store_vec(dx + g * D + at, row_dy);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(sae::MOST_THREADS)                                                                   \
        sae_decode_reverse__2__##T(T* dx, float* dz, const T* dy, const T* x, const u32* index, const float* z,        \
                                   const float* edited, const float* slope, const float* edit_slope, const T* encoder, \
                                   const T* decoder, const float* bias, const float* row_norms, int norm,              \
                                   float norm_value, int how, int through, const u8* mask, int tokens, int N, int C,   \
                                   int D) {                                                                            \
        splice_reverse(dx, dz, dy, x, index, z, edited, slope, edit_slope, encoder, decoder, bias, row_norms, norm,    \
                       norm_value, how, through, mask, tokens, N, C, D);                                               \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_decode_reverse__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
