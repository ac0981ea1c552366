// A row of the stream in a warp or a block, 16 bytes a thread, and sums of gathered latents' rows over it.
#pragma once

#include "include/sae.cuh"
#include "include/scan.cuh"
#include "include/vec.cuh"

namespace sae {

constexpr int MOST_THREADS = 512;

// Shared memory: latents with their weights, as many as there are threads, and what sums need.
struct Stage {
    u32 latent[MOST_THREADS];
    float weight[MOST_THREADS];
    u32 counts[MOST_THREADS / WARP_SIZE];
    float sums[MOST_THREADS / WARP_SIZE];
};

// The norm at the warp's row `x`.
template <class T> DEV Normed normed_warp(int norm, float value, int D, const T* x) {
    constexpr int SIZE = Vec<T>::SIZE;
    const int lane = threadIdx.x % WARP_SIZE;
    return normed(norm, value, D, [&](float shift, bool is_squared) {
        float sum = 0.0f;
        for (int d = lane * SIZE; d < D; d += WARP_SIZE * SIZE) {
            const Vec<T> v = load_vec(x + d);
#pragma unroll
            for (int e = 0; e < SIZE; e++) {
                const float from_shift = to_float(v.at[e]) - shift;
                sum += is_squared ? from_shift * from_shift : from_shift;
            }
        }
        return warp_sum(sum);
    });
}

// The norm at the block's row, of which this thread holds `row`.
template <class T>
DEV Normed normed_block(int norm, float value, int D, const Vec<T>& row, bool is_inside, float* scratch) {
    return normed(norm, value, D, [&](float shift, bool is_squared) {
        float sum = 0.0f;
        if (is_inside) {
#pragma unroll
            for (int e = 0; e < Vec<T>::SIZE; e++) {
                const float from_shift = to_float(row.at[e]) - shift;
                sum += is_squared ? from_shift * from_shift : from_shift;
            }
        }
        return block_sum(sum, scratch);
    });
}

// sum += weight(slot) times the latent's row of `w` (S,D), over all slots in their order. This thread sums its 16 bytes.
template <class T, class Weight>
DEV void add_rows(float (&sum)[Vec<T>::SIZE], const T* w, int D, const u32* latents, u32 count, Stage& stage, Weight weight) {
    constexpr int SIZE = Vec<T>::SIZE, AT_ONCE = 4;
    const int at = threadIdx.x * SIZE;
    for (u32 first = 0; first < count; first += blockDim.x) {
        const u32 slot = first + threadIdx.x;
        const float own = slot < count ? weight(slot) : 0.0f;
        u32 staged;
        const u32 place = block_prefix(own != 0.0f, stage.counts, staged);
        if (own != 0.0f) {
            stage.latent[place] = latents[slot];
            stage.weight[place] = own;
        }
        block_barrier();
        if (at < D) {
            u32 s = 0;
            for (; s + AT_ONCE <= staged; s += AT_ONCE) {
                Vec<T> row[AT_ONCE];
#pragma unroll
                for (int r = 0; r < AT_ONCE; r++) row[r] = load_vec(w + i64(stage.latent[s + r]) * D + at);
#pragma unroll
                for (int r = 0; r < AT_ONCE; r++) {
#pragma unroll
                    for (int e = 0; e < SIZE; e++) sum[e] += stage.weight[s + r] * to_float(row[r].at[e]);
                }
            }
            for (; s < staged; s++) {
                const Vec<T> row = load_vec(w + i64(stage.latent[s]) * D + at);
#pragma unroll
                for (int e = 0; e < SIZE; e++) sum[e] += stage.weight[s] * to_float(row.at[e]);
            }
        }
        block_barrier();
    }
}

}  // namespace sae
