// Exact selection of latents by a block a row: by (value descending, index ascending); NaN is never chosen.
#pragma once

#include "include/sae_rows.cuh"

namespace sae {

constexpr int SELECT_THREADS = 256, SELECT_WARPS = SELECT_THREADS / WARP_SIZE;
// Candidates of a top-k that are ranked among each other.
constexpr u32 MOST_CANDIDATES = 1024;
// A digit of the radix selection.
constexpr int DIGIT_BITS = 11, BINS = 1 << DIGIT_BITS, THREAD_BINS = BINS / SELECT_THREADS;

// A row's slots.
struct Row {
    u32* index;
    float *z, *edited, *slope, *edit_slope;
    const float* row_norms;
};

DEV Row row_of(u32* index, float* z, float* edited, float* slope, float* edit_slope, const float* row_norms, i64 n, int C) {
    return {index + n * (C + 1), z + n * C, edited + n * C, slope + n * C, edit_slope + n * C, row_norms};
}

DEV void write(const Row& row, u32 slot, u32 latent, float value, float gain) {
    row.index[1 + slot] = latent;
    row.z[slot] = value;
    row.slope[slot] = gain * (row.row_norms ? row.row_norms[latent] : 1.0f);
}

// After `used` slots were written: the latents that edits force, the edits, and the count.
DEV void finish(const Row& row, u32 used, const u32* edits, int edit_count, int forced_count, u32* scratch) {
    const u32* forced = forced_latents(edits, edit_count);
    const u32 kept = used;
    block_barrier();
    for (int f = 0; f < forced_count; f++) {
        bool is_there = false;
        for (u32 slot = threadIdx.x; slot < kept; slot += SELECT_THREADS) is_there |= row.index[1 + slot] == forced[f];
        if (block_any(is_there, scratch)) continue;
        if (threadIdx.x == 0) write(row, used, forced[f], 0.0f, 0.0f);
        used++;
    }
    block_barrier();
    for (u32 slot = threadIdx.x; slot < used; slot += SELECT_THREADS) {
        const Edited to = edit(edits, edit_count, row.index[1 + slot], row.z[slot]);
        row.edited[slot] = to.value;
        row.edit_slope[slot] = to.slope;
    }
    if (threadIdx.x == 0) row.index[0] = used;
}

// Ordered as (value, -index); 0 for what cannot be chosen. The two zeros are equal.
DEV u64 key_of(float h, u32 latent, bool is_relu) {
    if (!(is_relu ? h > 0.0f : h == h)) return 0;
    const u32 bits = bits_of(h + 0.0f);
    const u32 ordered = bits >> 31 ? ~bits : bits | 0x80000000;
    return u64(ordered) << 32 | (0xffffffff - latent);
}

// The value of a key.
DEV float value_of(u64 key) {
    const u32 ordered = key >> 32;
    return float_of(ordered >> 31 ? ordered & 0x7fffffff : ~ordered);
}

// Where keys come from: a row's pre-activations.
struct Scores {
    const float* h;
    int S;
    bool is_relu;
};

// Calls see(key) for every key that can be chosen, each by one thread.
template <class See> DEV void each_key(const Scores& from, See see) {
#pragma unroll 4
    for (int i = threadIdx.x * 4; i < from.S; i += SELECT_THREADS * 4) {
        const Vec<float> v = load_vec(from.h + i);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const u64 key = key_of(v.at[e], i + e, from.is_relu);
            if (key) see(key);
        }
    }
}

struct Selection {
    u64 candidate[MOST_CANDIDATES];
    u32 bin[BINS];
    u32 scratch[SELECT_WARPS];
    u32 count, digit, above;
};

// Writes the k largest keys' latents in order and returns how many there are.
template <class Keys> DEV u32 top_k(const Row& row, u32 k, Selection& shared, const Keys& keys) {
    // Keys above `bound` in their leading bits are chosen: there are `above`, fewer than k.
    u64 bound = 0;
    u32 above = 0;
    int shift = 64;
    while (true) {
        const int next = shift > DIGIT_BITS ? shift - DIGIT_BITS : 0, bins = 1 << (shift - next);
        for (int i = threadIdx.x; i < BINS; i += SELECT_THREADS) shared.bin[i] = 0;
        if (threadIdx.x == 0) shared.count = shared.digit = shared.above = 0;
        block_barrier();
        each_key(keys, [&](u64 key) {
            const bool is_in_reach = shift == 64 || key >> shift == bound >> shift;
            if (is_in_reach) atomic_add(&shared.bin[key >> next & (bins - 1)], 1);
        });
        block_barrier();
        // Each thread's bins, greatest first.
        u32 counts[THREAD_BINS], sum = 0;
        const int top = BINS - 1 - threadIdx.x * THREAD_BINS;
#pragma unroll
        for (int b = 0; b < THREAD_BINS; b++) sum += counts[b] = shared.bin[top - b];
        u32 total;
        u32 before = above + block_prefix(sum, shared.scratch, total);
        if (before < k && before + sum >= k) {
            // The k-th key is in one of these.
#pragma unroll
            for (int b = 0; b < THREAD_BINS; b++) {
                if (before < k && before + counts[b] >= k) {
                    shared.digit = top - b;
                    shared.above = before;
                    shared.count = before + counts[b];
                }
                before += counts[b];
            }
        }
        block_barrier();
        const u32 digit = shared.digit, candidates = shared.count, next_above = shared.above;
        block_barrier();
        // Fewer than k can be chosen: all of them are.
        if (above + total < k) break;
        bound |= u64(digit) << next;
        above = next_above;
        shift = next;
        if (candidates <= MOST_CANDIDATES) break;
    }
    if (threadIdx.x == 0) shared.count = 0;
    block_barrier();
    each_key(keys, [&](u64 key) {
        if (key >= bound) shared.candidate[atomic_add(&shared.count, 1)] = key;
    });
    block_barrier();
    const u32 candidates = shared.count;
    // The rank is the slot, so the order in which candidates were found does not matter.
    for (u32 c = threadIdx.x; c < candidates; c += SELECT_THREADS) {
        const u64 key = shared.candidate[c];
        u32 rank = 0;
        for (u32 other = 0; other < candidates; other++) rank += shared.candidate[other] > key;
        if (rank < k) write(row, rank, 0xffffffff - u32(key), value_of(key), 1.0f);
    }
    return candidates < k ? candidates : k;
}

}  // namespace sae
