// attention / forward_2_flash.cu                                                                        rung 2 of 2
// out  o (B,queries,D) T, lse (B,queries,H) f32: log-sum-exp of the scores
// in   qkv (B,tokens,3D) T, a token's row [q|k|v], heads side by side in each; D = H Dh
//      o = softmax(scale q k^T) v by head; a causal query i sees keys 0..i              T = f16 or bf16
// idea        64 query rows a block, keys and values through 2 cp.async stages of 64, scores in registers, online softmax
//             (FlashAttention-2, arXiv 2307.08691); keys and rows past the end are skipped by 16
// needs       sm_80+; Dh a multiple of 8 up to the entry's width, pointers aligned to 16; 5 tiles of shared memory
// bytes/flops ceil(queries/64)*2 + 2 reads and writes of B*tokens*D values; 4*B*queries*tokens*D flops
// predicted   45 % of mma.sync's peak for long sequences; at 257 tokens of 64, limited by latency: 30 % of it
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/attention.rs
#include "include/attention.cuh"

namespace attention {

template <class T, int W>
DEV void forward(T* o, float* lse, const T* qkv, float scale, int causal, int queries, int tokens, int H, int Dh) {
    DYNAMIC_SHARED(memory);
    const u32 shared = shared_address(memory), stages = shared + TILE<T, W>;
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    const Place at = place(ceil_div(queries, ROWS), H);
    const int D = H * Dh, i0 = at.tile * ROWS, first = i0 + warp * 16;
    const int seen = causal ? smaller(tokens, i0 + ROWS) : tokens, steps = ceil_div(seen, ROWS);
    const i64 stride = 3 * D;
    const T *q = qkv + at.image * tokens * stride + at.h * Dh, *k = q + D, *v = k + D;
    // Scores in units of log 2.
    const float unit = scale * LOG2_E;

    auto fill = [&](int step) {
        const u32 stage = stages + step % STAGES * 2 * TILE<T, W>;
        copy_rows<T, W>(stage, k, stride, step * ROWS, tokens, Dh);
        copy_rows<T, W>(stage + TILE<T, W>, v, stride, step * ROWS, tokens, Dh);
        copy_async_commit();
    };

    Operand<T, W> a;
    Sums<W> sum = {};
    float most[2] = {float_of(0xff800000), float_of(0xff800000)}, total[2] = {};
    copy_rows<T, W>(shared, q, stride, i0, queries, Dh);
    fill(0);
    for (int step = 0; step < steps; step++) {
        copy_async_wait<0>();
        // Everyone's copies of this stage are there, and everyone has read the stage that is filled next.
        block_barrier();
        if (step + 1 < steps) fill(step + 1);
        if (first >= queries) continue;
        if (step == 0) load_operand<T, W>(a, shared + warp * 16 * STRIDE<T, W>);
        const u32 keys = stages + step % STAGES * 2 * TILE<T, W>, values = keys + TILE<T, W>;
        const int j0 = step * ROWS, groups = ceil_div(smaller(ROWS, seen - j0), 16);
        Sums<ROWS> s;
        scores<T, W, ROWS>(s, a, keys, groups);
        const bool has_unseen = j0 + ROWS > tokens || (causal && j0 + ROWS > first);
        float greatest[2] = {most[0], most[1]};
#pragma unroll
        for (int j = 0; j < ROWS / 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[j][e] *= unit;
                if (has_unseen) {
                    const int key = j0 + j * 8 + lane % 4 * 2 + e % 2, query = first + lane / 4 + e / 2 * 8;
                    if (key >= tokens || (causal && key > query)) s[j][e] = float_of(0xff800000);
                }
                greatest[e / 2] = fmaxf(greatest[e / 2], s[j][e]);
            }
        }
        float fade[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            greatest[half] = row_max(greatest[half]);
            fade[half] = power_of_2(most[half] - greatest[half]);
            most[half] = greatest[half];
            total[half] *= fade[half];
        }
#pragma unroll
        for (int j = 0; j < ROWS / 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[j][e] = power_of_2(s[j][e] - most[e / 2]);
                total[e / 2] += s[j][e];
            }
        }
#pragma unroll
        for (int n = 0; n < W / 8; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sum[n][e] *= fade[e / 2];
        }
        accumulate<T, W, ROWS>(sum, s, values, groups);
    }
    if (first >= queries) return;
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] = row_sum(total[half]);
        factor[half] = 1.0f / total[half];
        const int query = first + lane / 4 + half * 8;
        if (lane % 4 == 0 && query < queries) {
            lse[(i64(at.image) * queries + query) * H + at.h] = most[half] * LN_2 + logf(total[half]);
        }
    }
    store_rows<T, W>(o + i64(at.image) * queries * D + at.h * Dh, D, first, queries, Dh,
                     memory + warp * 16 * STRIDE<T, W>, sum, factor);
}

}  // namespace attention

#define ENTRY(T, W)                                                                                                    \
    KERNEL void __launch_bounds__(attention::THREADS, W <= 64 ? 4 : 2)                                                 \
        attention_forward_d##W##__2__##T(T* o, float* lse, const T* qkv, float scale, int causal, int queries,         \
                                         int tokens, int H, int Dh) {                                                  \
        attention::forward<T, W>(o, lse, qkv, scale, causal, queries, tokens, H, Dh);                                  \
    }                                                                                                                  \
    REGISTER_KERNEL(attention_forward_d##W##__2__##T)
#define ENTRIES(T)                                                                                                     \
    ENTRY(T, 32)                                                                                                       \
    ENTRY(T, 64)                                                                                                       \
    ENTRY(T, 80)                                                                                                       \
    ENTRY(T, 96)                                                                                                       \
    ENTRY(T, 112)

ENTRIES(f32)
ENTRIES(f16)
ENTRIES(bf16)
