// The side of the keys in attention's reverse: a block holds 64 keys and values of a head and passes over the queries.
//
// Scores are made transposed, so that P^T and dS^T lie in registers as the products for dV and dK want them, and a
// column of P or dP is a row here. The three users differ in what they need of P and dP.
#pragma once

#include "include/attention.cuh"

namespace attention {

// What a query row brings along, 16 bytes in shared memory: lse in units of log 2, 1 / rowsum of P, rowsum(P dP), r_in.
enum { LSE, INVERSE, DELTA, WEIGHT };

// The tensors, as they lie. Null where a user has none.
template <class T> struct KeyTensors {
    T* dqkv;                  // (G,tokens,3D): dk and dv are written
    float* columns;           // (G,H,tokens): by head, sum over query rows i of r_in[i] relu(w_i), w = P dP, P or dP
    const float* r_in;        // (G,tokens); 1 where null
    const float* statistics;  // (G,H,queries,2): 1 / rowsum(P) and rowsum(P dP); without dqkv (B,H,queries,2)
    const T* d_o;             // (G,queries,D)
    const T* qkv;             // (B,tokens,3D)
    const float* lse;         // (B,queries,H)
};

// Shared memory holds keys or values and two stages of queries or dO, for each of P and dP, then 2 KiB of records.
template <class T, int W, bool HAS_P, bool HAS_DP>
DEV void key_tile(const KeyTensors<T>& x, float scale, int causal, int queries, int tokens, int B, int H, int Dh) {
    // Query columns at a time: two products of them and two gradients of W columns must fit in registers.
    constexpr int COLUMNS = W <= 64 ? 64 : 32;
    constexpr int SIDES = HAS_P + HAS_DP, DP_SIDE = HAS_P ? TILE<T, W> : 0;
    DYNAMIC_SHARED(memory);
    const u32 shared = shared_address(memory), stages = shared + SIDES * TILE<T, W>;
    float* records = reinterpret_cast<float*>(memory + SIDES * 3 * TILE<T, W>);
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    const Place at = place(ceil_div(tokens, ROWS), H);
    const int D = H * Dh, b = at.image % B, j0 = at.tile * ROWS, first = j0 + warp * 16;
    const int start = causal ? at.tile : 0, end = ceil_div(queries, ROWS);
    const i64 stride = 3 * D, image = i64(at.image) * tokens, head = i64(at.image) * H + at.h;
    const T *q = x.qkv + b * tokens * stride + at.h * Dh, *k = q + D, *v = k + D;
    const T* d_o = x.d_o + i64(at.image) * queries * D + at.h * Dh;
    const float unit = scale * LOG2_E;

    auto fill = [&](int step) {
        const u32 stage = stages + step % STAGES * SIDES * TILE<T, W>;
        if constexpr (HAS_P) copy_rows<T, W>(stage, q, stride, step * ROWS, queries, Dh);
        if constexpr (HAS_DP) copy_rows<T, W>(stage + DP_SIDE, d_o, D, step * ROWS, queries, Dh);
        copy_async_commit();
    };
    // The record of a thread's query, on its way from memory while the tile before is computed with.
    Vec<float> record = {};
    auto fetch = [&](int step) {
        const int i = step * ROWS + threadIdx.x;
        // A query that is none has P = 0.
        record = {float_of(0x7f800000), 0.0f, 0.0f, 0.0f};
        if (threadIdx.x >= ROWS || i >= queries) return;
        record.at[WEIGHT] = x.r_in ? x.r_in[image + i] : 1.0f;
        if constexpr (HAS_P) {
            record.at[LSE] = x.lse[(i64(b) * queries + i) * H + at.h] * LOG2_E;
            const i64 of = i64(x.dqkv ? at.image : b) * H + at.h;
            const u64 both = reinterpret_cast<const u64*>(x.statistics)[of * queries + i];
            record.at[INVERSE] = float_of(u32(both));
            record.at[DELTA] = float_of(u32(both >> 32));
        }
    };
    auto put = [&](int step) {
        if (threadIdx.x < ROWS) store_vec(records + (step % STAGES * ROWS + threadIdx.x) * 4, record);
    };

    Sums<W> dk = {}, dv = {};
    float column[2] = {};
    if (start < end) {
        if constexpr (HAS_P) copy_rows<T, W>(shared, k, stride, j0, tokens, Dh);
        if constexpr (HAS_DP) copy_rows<T, W>(shared + DP_SIDE, v, stride, j0, tokens, Dh);
        fill(start);
        fetch(start);
        put(start);
    }
    for (int step = start; step < end; step++) {
        copy_async_wait<0>();
        // Everyone's copies of this stage are there, and everyone has read the stage that is filled next.
        block_barrier();
        if (step + 1 < end) {
            fill(step + 1);
            fetch(step + 1);
        }
        const u32 stage = stages + step % STAGES * SIDES * TILE<T, W>;
#pragma unroll 1
        for (int c0 = 0; c0 < ROWS; c0 += COLUMNS) {
            const int i0 = step * ROWS + c0;
            if (first >= tokens || i0 >= queries) break;
            const int groups = ceil_div(smaller(COLUMNS, queries - i0), 16);
            const u32 rows = stage + c0 * STRIDE<T, W>, own = shared + warp * 16 * STRIDE<T, W>;
            Sums<COLUMNS> p, dp;  // transposed: a row is a key
            Operand<T, W> a;
            if constexpr (HAS_P) {
                load_operand<T, W>(a, own);
                scores<T, W, COLUMNS>(p, a, rows, groups);
            }
            if constexpr (HAS_DP) {
                load_operand<T, W>(a, own + DP_SIDE);
                scores<T, W, COLUMNS>(dp, a, rows + DP_SIDE, groups);
            }
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; j++) {
                const float* of_query = records + (step % STAGES * ROWS + c0 + j * 8 + lane % 4 * 2) * 4;
                const Vec<float> two[2] = {load_vec(of_query), load_vec(of_query + 4)};
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const Vec<float>& query = two[e % 2];
                    if constexpr (HAS_P) {
                        p[j][e] = power_of_2(fmaf(p[j][e], unit, -query.at[LSE])) * query.at[INVERSE];
                        const int key = first + lane / 4 + e / 2 * 8;
                        if (causal && i0 + j * 8 + lane % 4 * 2 + e % 2 < key) p[j][e] = 0.0f;
                    }
                    const float w = !HAS_P ? dp[j][e] : HAS_DP ? p[j][e] * dp[j][e] : p[j][e];
                    column[e / 2] += query.at[WEIGHT] * fmaxf(w, 0.0f);
                    if constexpr (HAS_P && HAS_DP) dp[j][e] = p[j][e] * (dp[j][e] - query.at[DELTA]);
                }
            }
            if constexpr (HAS_P && HAS_DP) {
                if (x.dqkv) {
                    accumulate<T, W, COLUMNS>(dv, p, rows + DP_SIDE, groups);
                    accumulate<T, W, COLUMNS>(dk, dp, rows, groups);
                }
            }
        }
        if (step + 1 < end) put(step + 1);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int key = first + lane / 4 + half * 8;
        column[half] = row_sum(column[half]);
        if (x.columns && lane % 4 == 0 && key < tokens) x.columns[head * tokens + key] = column[half];
    }
    if constexpr (HAS_P && HAS_DP) {
        if (!x.dqkv) return;
        T* to = x.dqkv + image * stride + D + at.h * Dh;
        unsigned char* own = memory + warp * 16 * STRIDE<T, W>;
        store_rows<T, W>(to, stride, first, tokens, Dh, own, dk, {scale, scale});
        store_rows<T, W>(to + D, stride, first, tokens, Dh, own, dv, {1.0f, 1.0f});
        // Rows of dq that no block of queries has.
        if (at.tile >= end) {
            const Sums<W> none = {};
            store_rows<T, W>(to - D, stride, first, tokens, Dh, own, none, {});
        }
    }
}

// Sum over the heads of `columns` (n,H,tokens), in order, for value `at` of (n,tokens).
DEV float head_sum(const float* columns, i64 at, int tokens, int H) {
    float sum = 0.0f;
    for (int h = 0; h < H; h++) sum += columns[(at / tokens * H + h) * tokens + at % tokens];
    return sum;
}

}  // namespace attention
