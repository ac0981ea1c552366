// attention / reverse_2_flash.cu                                                                        rung 2 of 2
// out  dqkv (G,tokens,3D) T or null; rows of dq past `queries` are zero: in the last tile of queries by its block, past it
//      by the blocks of keys
//      r_out (G,tokens) f32 or null = keep r_in + gain/H sum over heads and query rows i of r_in[i] relu(P_i dP_i): the
//      relevance row of Chefer et al., arXiv 2103.15679
// in   d_o (G,queries,D) T, qkv (B,tokens,3D) T, lse (B,queries,H) f32, r_in (G,tokens) f32; D = H Dh
//      gradient image g belongs to forward image g % B                                  T = f16 or bf16
//      dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = scale dS K, dK = scale dS^T Q, dV = P^T dO
//      scratch: statistics (G,H,queries,2) f32, columns (G,H,tokens) f32
// idea        no atomics and no T x T: first 64 queries a block, once over the keys for rowsum(P) and rowsum(P dP), once
//             more for dq; then 64 keys a block, over the queries for dk, dv and the column sums; then a sum over heads.
//             Without dqkv the first are only the rows' sums, of the B forward images. P renormalised everywhere
// needs       sm_80+; Dh a multiple of 8 up to the entry's width, pointers aligned to 16; 6 tiles of shared memory
// bytes/flops about (4 ceil(queries/64) + 2 ceil(tokens/64)) reads of G*tokens*D values; 18*G*queries*tokens*D flops;
//             without dqkv (2 ceil(queries/64) + 2 ceil(tokens/64)) reads at most and 6*G*queries*tokens*D flops
// predicted   of these flops 35 % of mma.sync's peak at 257 tokens of 64; FlashAttention-2 does 10/18 of them, with atomics
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/attention.rs
#include "include/attention_keys.cuh"
#include "include/attention_queries.cuh"

namespace attention {

template <class T, int W>
DEV void query_tile(T* dqkv, float* statistics, const T* d_o, const T* qkv, const float* lse, float scale, int causal,
                    int queries, int tokens, int B, int H, int Dh) {
    DYNAMIC_SHARED(memory);
    const u32 shared = shared_address(memory), stages = shared + 2 * TILE<T, W>;
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    const Place at = place(ceil_div(queries, ROWS), H);
    const int D = H * Dh, b = at.image % B, i0 = at.tile * ROWS, first = i0 + warp * 16;
    const int seen = causal ? smaller(tokens, i0 + ROWS) : tokens, steps = ceil_div(seen, ROWS);
    const i64 stride = 3 * D;
    const T *q = qkv + b * tokens * stride + at.h * Dh, *k = q + D, *v = k + D;
    const float unit = scale * LOG2_E;

    auto fill = [&](int step) {
        const u32 stage = stages + step % STAGES * 2 * TILE<T, W>;
        const int j0 = (step < steps ? step : step - steps) * ROWS;
        copy_rows<T, W>(stage, k, stride, j0, tokens, Dh);
        copy_rows<T, W>(stage + TILE<T, W>, v, stride, j0, tokens, Dh);
        copy_async_commit();
    };

    Sums<W> dq = {};
    float of_lse[2] = {}, inverse[2] = {}, delta[2] = {};
    load_lse(of_lse, lse + i64(b) * queries * H + at.h, first, queries, H);
    copy_rows<T, W>(shared, q, stride, i0, queries, Dh);
    copy_rows<T, W>(shared + TILE<T, W>, d_o + i64(at.image) * queries * D + at.h * Dh, D, i0, queries, Dh);
    fill(0);
    for (int step = 0; step < 2 * steps; step++) {
        copy_async_wait<0>();
        // Everyone's copies of this stage are there, and everyone has read the stage that is filled next.
        block_barrier();
        if (step + 1 < 2 * steps) fill(step + 1);
        if (first >= queries) continue;
        const bool is_second = step >= steps;
        const u32 keys = stages + step % STAGES * 2 * TILE<T, W>, own = shared + warp * 16 * STRIDE<T, W>;
        const int j0 = (is_second ? step - steps : step) * ROWS, groups = ceil_div(smaller(ROWS, seen - j0), 16);
        Sums<ROWS> p, dp;
        Operand<T, W> a;
        load_operand<T, W>(a, own);
        scores<T, W, ROWS>(p, a, keys, groups);
        load_operand<T, W>(a, own + TILE<T, W>);
        scores<T, W, ROWS>(dp, a, keys + TILE<T, W>, groups);
        exponentials(p, unit, of_lse, first, j0, tokens, causal);
        if (is_second) {
#pragma unroll
            for (int j = 0; j < ROWS / 8; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) p[j][e] = p[j][e] * inverse[e / 2] * (dp[j][e] - delta[e / 2]);
            }
            accumulate<T, W, ROWS>(dq, p, keys, groups);
            continue;
        }
#pragma unroll
        for (int j = 0; j < ROWS / 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                inverse[e / 2] += p[j][e];
                delta[e / 2] += p[j][e] * dp[j][e];
            }
        }
        if (step + 1 < steps) continue;
        // Where one score towers, dP - delta cancels almost completely, and what a sum of 1 + eps leaves over would drown
        // it.
#pragma unroll
        for (int half = 0; half < 2; half++) {
            inverse[half] = 1.0f / row_sum(inverse[half]);
            delta[half] = row_sum(delta[half]) * inverse[half];
            const int query = first + lane / 4 + half * 8;
            if (lane % 4 == 0 && query < queries) {
                store_pair(statistics + ((i64(at.image) * H + at.h) * queries + query) * 2, inverse[half], delta[half]);
            }
        }
    }
    store_rows<T, W>(dqkv + at.image * tokens * stride + at.h * Dh, stride, first, tokens, Dh,
                     memory + warp * 16 * STRIDE<T, W>, dq, {scale, scale});
}

}  // namespace attention

#define ENTRY(T, W)                                                                                                    \
    KERNEL void __launch_bounds__(attention::THREADS, 2)                                                               \
        attention_reverse_queries_d##W##__2__##T(T* dqkv, float* statistics, const T* d_o, const T* qkv,               \
                                                 const float* lse, float scale, int causal, int queries, int tokens,   \
                                                 int B, int H, int Dh) {                                               \
        attention::query_tile<T, W>(dqkv, statistics, d_o, qkv, lse, scale, causal, queries, tokens, B, H, Dh);        \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_reverse_queries_d##W##__2__##T)                                                          \
    KERNEL void __launch_bounds__(attention::THREADS, W <= 64 && sizeof(T) == 2 ? 4 : 3)                               \
        attention_reverse_sums_d##W##__2__##T(float* statistics, const T* qkv, const float* lse, float scale,          \
                                              int causal, int queries, int tokens, int H, int Dh) {                    \
        attention::inverse_sums<T, W>(statistics, qkv, lse, scale, causal, queries, tokens, H, Dh);                    \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_reverse_sums_d##W##__2__##T)                                                             \
    KERNEL void __launch_bounds__(attention::THREADS, 2)                                                               \
        attention_reverse_keys_d##W##__2__##T(T* dqkv, float* columns, const float* r_in, const float* statistics,     \
                                              const T* d_o, const T* qkv, const float* lse, float scale, int causal,   \
                                              int queries, int tokens, int B, int H, int Dh) {                         \
        attention::key_tile<T, W, true, true>({dqkv, columns, r_in, statistics, d_o, qkv, lse}, scale, causal,         \
                                              queries, tokens, B, H, Dh);                                              \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_reverse_keys_d##W##__2__##T)

#define ENTRIES(T)                                                                                                     \
    ENTRY(T, 32)                                                                                                       \
    ENTRY(T, 64)                                                                                                       \
    ENTRY(T, 80)                                                                                                       \
    ENTRY(T, 96)                                                                                                       \
    ENTRY(T, 112)                                                                                                      \
    KERNEL void __launch_bounds__(256)                                                                                 \
        attention_reverse_heads__2__##T(float* r_out, const float* r_in, float keep, float factor,                     \
                                        const float* columns, int tokens, int H, i64 values) {                         \
        const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;                                                     \
        if (at < values) r_out[at] = keep * r_in[at] + factor * attention::head_sum(columns, at, tokens, H);           \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_reverse_heads__2__##T)

ENTRIES(f32)
ENTRIES(f16)
ENTRIES(bf16)
