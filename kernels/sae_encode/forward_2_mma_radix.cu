// sae_encode / forward_2_mma_radix.cu                                                                   rung 2 of 3
// out  the code of rows first.. first+rows of x: index (N,C+1) u32, z, edited, slope, edit_slope (N,C) f32
//      pre (rows,S) f32: h
// in   x (N,D) T, w (S,D) T, folded_bias (S), row_sums (S) or null, row_norms (S) or null f32; the activation's parameters;
//      edits, see include/sae.cuh; mask (tokens) u8: row n is coded if mask[n % tokens]   T = f32, f16 or bf16
//      f32: bias (S), input_bias (D) or null, mean (D) or null instead of folded_bias and row_sums
//      h = ((w x - shift row_sums) / divisor + folded_bias) row_norms; f32: (w ((x - shift) / divisor - input_bias) + bias)
//      row_norms. The k largest come by value, then index; all else by index. NaN never fires.
// idea        the norm is a line through x, so the product takes x as it is, by mma.sync, and its epilogue does the rest.
//             That costs bits which f32 has and its users want: there x is normed on its way to 8 x 8 multiply-adds a thread.
//             Then a block a row. Top-k: a histogram of the leading bits of (value, -index), and of the next bits below the
//             k-th until few candidates are left; each candidate's rank among them is its slot, so the order in which they
//             were found does not matter. Groups: a warp each. All else: what fires, in order, by prefix sums.
// needs       sm_80+, D and S multiples of 16 bytes, pointers aligned to 16, 64 KiB shared memory (product); S a multiple
//             of 4, pre aligned to 16, k at most 1024 (top-k); any GPU (groups)
// bytes/flops (N*D + S*D) values, 4*N*S bytes written and read twice for most rows; 2*N*S*D flops
// predicted   product as gemm forward 2; top-k limited by L2 at 64 rows a piece: 5 us a piece at S = 65536
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_encode.rs
#include "include/sae_select.cuh"
#include "include/tile_f32.cuh"

// shift and 1/divisor of each row's norm, in the first slots of `edited` and `edit_slope`, which are written last.
template <class T>
DEV void norms(float* edited, float* edit_slope, const T* x, int norm, float norm_value, int N, int C, int D) {
    const int lane = threadIdx.x % WARP_SIZE;
    const i64 n = (i64(blockIdx.x) * blockDim.x + threadIdx.x) / WARP_SIZE;
    if (n >= N) return;
    const sae::Normed at = sae::normed_warp(norm, norm_value, D, x + n * D);
    if (lane == 0) {
        edited[n * C] = at.shift;
        edit_slope[n * C] = 1.0f / at.divisor;
    }
}

template <class T>
DEV void product(float* pre, const float* shifts, const float* gains, const T* x, const T* w, const float* folded_bias,
                 const float* row_sums, const float* row_norms, float gain, int first, int rows, int S, int C, int D) {
    tile::product<false>(x + i64(first) * D, w, rows, S, D, [&](int m, int s, float(&v)[8]) {
        const i64 n = first + m;
        const float row_gain = gains ? gains[n * C] : gain, shift = row_sums ? shifts[n * C] : 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            const Vec<float> bias = load_vec(folded_bias + s + i);
            Vec<float> sums = {}, norms = {1.0f, 1.0f, 1.0f, 1.0f}, h;
            if (row_sums) sums = load_vec(row_sums + s + i);
            if (row_norms) norms = load_vec(row_norms + s + i);
#pragma unroll
            for (int e = 0; e < 4; e++) h.at[e] = ((v[i + e] - shift * sums.at[e]) * row_gain + bias.at[e]) * norms.at[e];
            store_vec(pre + i64(m) * S + s + i, h);
        }
    });
}

// The same in f32, of x that is normed before it is multiplied, as in rung 1.
DEV void product_f32(float* pre, const float* shifts, const float* gains, const float* x, const float* w, const float* bias,
                     const float* input_bias, const float* mean, const float* row_norms, float gain, int first, int rows,
                     int S, int C, int D) {
    auto finish = [&](int m, int s, float(&v)[4]) {
        const Vec<float> own = load_vec(bias + s);
        Vec<float> norms = {1.0f, 1.0f, 1.0f, 1.0f}, h;
        if (row_norms) norms = load_vec(row_norms + s);
#pragma unroll
        for (int e = 0; e < 4; e++) h.at[e] = (v[e] + own.at[e]) * norms.at[e];
        store_vec(pre + i64(m) * S + s, h);
    };
    tile::product<false>(x + i64(first) * D, w, rows, S, D, finish, [&](int m, int d, float(&v)[4]) {
        const i64 n = first + m;
        const float row_gain = gains ? gains[n * C] : gain, shift = gains ? shifts[n * C] : 0.0f;
        Vec<float> from = {shift, shift, shift, shift}, less = {};
        if (mean) from = load_vec(mean + d);
        if (input_bias) less = load_vec(input_bias + d);
#pragma unroll
        for (int e = 0; e < 4; e++) v[e] = (v[e] - from.at[e]) * row_gain - less.at[e];
    });
}

// The k largest.
DEV void top_k(const sae::Row& row, const float* h, bool is_relu, u32 k, const u32* edits, int edit_count, int forced_count, int S) {
    SHARED(sae::Selection, shared);
    const u32 used = sae::top_k(row, k, shared, sae::Scores{h, S, is_relu});
    sae::finish(row, used, edits, edit_count, forced_count, shared.scratch);
}

// The largest of each group of S / k, if positive.
DEV void group_max(const sae::Row& row, const float* h, int k, const u32* edits, int edit_count, int forced_count, int S) {
    SHARED(u32[sae::SELECT_WARPS], scratch);
    SHARED(u32[sae::SELECT_WARPS], best);
    const int size = S / k, lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    u32 used = 0;
    for (int first = 0; first < k; first += sae::SELECT_WARPS) {
        const int group = first + warp;
        u32 value = 0, latent = 0xffffffff;
        if (group < k) {
            for (int i = group * size + lane; i < (group + 1) * size; i += WARP_SIZE) {
                // The bits of positive floats are ordered as they are.
                if (h[i] > float_of(value)) {
                    value = bits_of(h[i]);
                    latent = i;
                }
            }
        }
#pragma unroll
        for (u32 distance = WARP_SIZE / 2; distance > 0; distance /= 2) {
            const u32 other = shuffle_xor(value, distance), other_latent = shuffle_xor(latent, distance);
            if (other > value || (other == value && other_latent < latent)) {
                value = other;
                latent = other_latent;
            }
        }
        if (lane == 0) best[warp] = latent;
        block_barrier();
        u32 place = used;
        for (int w = 0; w < sae::SELECT_WARPS; w++) {
            if (best[w] == 0xffffffff) continue;
            if (w < warp) place++;
            used++;
        }
        if (lane == 0 && value) sae::write(row, place, latent, h[latent], 1.0f);
        block_barrier();
    }
    sae::finish(row, used, edits, edit_count, forced_count, scratch);
}

// All that fire, in order.
DEV void all_that_fire(const sae::Row& row, const float* h, int activation, float theta, const float* parameters, const u32* edits, int edit_count,
                       int forced_count, int S) {
    SHARED(u32[sae::SELECT_WARPS], scratch);
    u32 used = 0;
    for (int first = 0; first < S; first += sae::SELECT_THREADS * 4) {
        const int i = first + threadIdx.x * 4;
        float value[4], gain[4];
        bool is_on[4] = {};
        u32 count = 0;
        if (i < S) {
            const Vec<float> v = load_vec(h + i);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                is_on[e] = sae::fires(activation, theta, parameters, S, i + e, v.at[e], value[e], gain[e]);
                count += is_on[e];
            }
        }
        u32 total;
        u32 place = used + block_prefix(count, scratch, total);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            if (is_on[e]) sae::write(row, place++, i + e, value[e], gain[e]);
        }
        used += total;
    }
    sae::finish(row, used, edits, edit_count, forced_count, scratch);
}

#define NORMS(T)                                                                                                       \
    KERNEL void __launch_bounds__(sae::SELECT_THREADS)                                                                 \
        sae_encode_forward_norms__2__##T(float* edited, float* edit_slope, const T* x, int norm, float norm_value,     \
                                         int N, int C, int D) {                                                        \
        norms(edited, edit_slope, x, norm, norm_value, N, C, D);                                                       \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_encode_forward_norms__2__##T)

#define ENTRY(T)                                                                                                       \
    NORMS(T)                                                                                                           \
    KERNEL void __launch_bounds__(tile::THREADS, 2) sae_encode_forward_product__2__##T(                                \
        float* pre, const float* shifts, const float* gains, const T* x, const T* w, const float* folded_bias,         \
        const float* row_sums, const float* row_norms, float gain, int first, int rows, int S, int C, int D) {         \
        product(pre, shifts, gains, x, w, folded_bias, row_sums, row_norms, gain, first, rows, S, C, D);               \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_encode_forward_product__2__##T)

ENTRY(f16)
ENTRY(bf16)

NORMS(f32)
KERNEL void __launch_bounds__(tile::THREADS, 1) sae_encode_forward_product__2__f32(
    float* pre, const float* shifts, const float* gains, const float* x, const float* w, const float* bias,
    const float* input_bias, const float* mean, const float* row_norms, float gain, int first, int rows, int S, int C,
    int D) {
    product_f32(pre, shifts, gains, x, w, bias, input_bias, mean, row_norms, gain, first, rows, S, C, D);
}
REGISTER_KERNEL(sae_encode_forward_product__2__f32)

#define SELECT(part, call)                                                                                             \
    KERNEL void __launch_bounds__(sae::SELECT_THREADS) sae_encode_forward_##part##__2__f32(                                        \
        u32* index, float* z, float* edited, float* slope, float* edit_slope, const float* pre,                        \
        const float* row_norms, int activation, int k, float theta, const float* parameters, const u32* edits,         \
        int edit_count, int forced_count, const u8* mask, int tokens, int first, int rows, int S, int C) {             \
        const int at = blockIdx.x;                                                                                     \
        const i64 n = first + at;                                                                                      \
        const sae::Row row = sae::row_of(index, z, edited, slope, edit_slope, row_norms, n, C);                         \
        const float* h = pre + i64(at) * S;                      \
        if (mask[n % tokens]) call;                                                                                    \
        else if (threadIdx.x == 0) row.index[0] = 0;                                                                   \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_encode_forward_##part##__2__f32)

SELECT(top_k, top_k(row, h, activation == sae::TOP_K_RELU, k, edits, edit_count, forced_count, S))
SELECT(group_max, group_max(row, h, k, edits, edit_count, forced_count, S))
SELECT(select, all_that_fire(row, h, activation, theta, parameters, edits, edit_count, forced_count, S))
