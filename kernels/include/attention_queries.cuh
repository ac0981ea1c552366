// The side of the queries in attention's reverse: what a query row's P is, and what its sum is.
//
// lse has the rounding of a number as large as the scores. In exp(score - lse) it is one factor common to a row, which the
// row's sum takes out again: P is then as near as exp(score - max) / sum. What is not common is the rounding of
// the difference, which is made by one fmaf: it is small where P is not.
#pragma once

#include "include/attention.cuh"

namespace attention {

// lse in units of log 2 of the two query rows that a lane has, from `first` on; `lse` is the image's and head's.
DEV void load_lse(float (&of_lse)[2], const float* lse, int first, int queries, int H) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = first + threadIdx.x % WARP_SIZE / 4 + half * 8;
        if (query < queries) of_lse[half] = lse[i64(query) * H] * LOG2_E;
    }
}

// Products q k^T of query rows from `first` and keys from `j0` on become exp(score - lse).
DEV void exponentials(Sums<ROWS>& p, float unit, const float (&of_lse)[2], int first, int j0, int tokens, int causal) {
    const int lane = threadIdx.x % WARP_SIZE;
    const bool has_unseen = j0 + ROWS > tokens || (causal && j0 + ROWS > first);
#pragma unroll
    for (int j = 0; j < ROWS / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            p[j][e] = power_of_2(fmaf(p[j][e], unit, -of_lse[e / 2]));
            if (has_unseen) {
                const int key = j0 + j * 8 + lane % 4 * 2 + e % 2, query = first + lane / 4 + e / 2 * 8;
                if (key >= tokens || (causal && key > query)) p[j][e] = 0.0f;
            }
        }
    }
}

// The first half of `statistics` (B,H,queries,2): 1 / rowsum(exp(score - lse)), 64 queries a block; the second is 0. The
// bits are those of the reverse's first sweep.
template <class T, int W>
DEV void inverse_sums(float* statistics, const T* qkv, const float* lse, float scale, int causal, int queries, int tokens,
                      int H, int Dh) {
    DYNAMIC_SHARED(memory);
    const u32 shared = shared_address(memory), stages = shared + TILE<T, W>;
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    const Place at = place(ceil_div(queries, ROWS), H);
    const int D = H * Dh, i0 = at.tile * ROWS, first = i0 + warp * 16;
    const int seen = causal ? smaller(tokens, i0 + ROWS) : tokens, steps = ceil_div(seen, ROWS);
    const i64 stride = 3 * D;
    const T *q = qkv + i64(at.image) * tokens * stride + at.h * Dh, *k = q + D;
    const float unit = scale * LOG2_E;

    auto fill = [&](int step) {
        copy_rows<T, W>(stages + step % STAGES * TILE<T, W>, k, stride, step * ROWS, tokens, Dh);
        copy_async_commit();
    };
    float of_lse[2] = {}, sum[2] = {};
    load_lse(of_lse, lse + i64(at.image) * queries * H + at.h, first, queries, H);
    copy_rows<T, W>(shared, q, stride, i0, queries, Dh);
    fill(0);
    for (int step = 0; step < steps; step++) {
        copy_async_wait<0>();
        // Everyone's copies of this stage are there, and everyone has read the stage that is filled next.
        block_barrier();
        if (step + 1 < steps) fill(step + 1);
        if (first >= queries) continue;
        const int j0 = step * ROWS, groups = ceil_div(smaller(ROWS, seen - j0), 16);
        Sums<ROWS> p;
        Operand<T, W> a;
        load_operand<T, W>(a, shared + warp * 16 * STRIDE<T, W>);
        scores<T, W, ROWS>(p, a, stages + step % STAGES * TILE<T, W>, groups);
        exponentials(p, unit, of_lse, first, j0, tokens, causal);
#pragma unroll
        for (int j = 0; j < ROWS / 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sum[e / 2] += p[j][e];
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float inverse = 1.0f / row_sum(sum[half]);
        const int query = first + lane / 4 + half * 8;
        if (lane % 4 == 0 && query < queries) {
            store_pair(statistics + ((i64(at.image) * H + at.h) * queries + query) * 2, inverse, 0.0f);
        }
    }
}

}  // namespace attention
