// The block tile of a matrix product on sm_90a: the copy engine fills stages, two warpgroups multiply them by wgmma.
//
// C (M,N) = A (M,K) B, f32 accumulation in the order of k. B is (N,K), or (K,N) when B_IS_KN. Rows of A and B in global
// memory are multiples of 16 bytes. A block of 384 threads makes 128 x 256 of C: its first warpgroup copies, the others
// multiply 64 x 256 each. A stage holds 64 of K, in rows of 128 swizzled bytes. All blocks lie in grid.x, in groups of GROUP
// row tiles: consecutive blocks share a tile of B, and the group's tiles of A stay in the cache.
#pragma once

#include "include/reduce.cuh"
#include "include/tma.cuh"
#include "include/vec.cuh"
#include "include/wgmma.cuh"

#ifdef HAS_SM_90A

namespace warpgroup_tile {

constexpr int WARPGROUP = 128, CONSUMERS = 2, THREADS = (1 + CONSUMERS) * WARPGROUP;
constexpr int WARPGROUP_M = 64, M = CONSUMERS * WARPGROUP_M, N = 256, K = 64;
#ifndef WARPGROUP_TILE_STAGES
#define WARPGROUP_TILE_STAGES 4
#endif
constexpr int STAGES = WARPGROUP_TILE_STAGES;
constexpr int LINE = 128;                                        // bytes of a swizzled row
constexpr int EIGHT_LINES = 8 * LINE;
constexpr int A_BYTES = M * K * 2, B_BYTES = N * K * 2, STAGE_BYTES = A_BYTES + B_BYTES;
constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;               // the launch's dynamic shared memory
// The maps' boxes, innermost first: A {K, M}; B {K, N}, or {SLICE, K} as often as N needs it when it is (K,N).
constexpr int SLICE = LINE / 2, SLICE_BYTES = SLICE * K * 2;
constexpr int GROUP = 16;                                        // row tiles that go over B together
constexpr int OUT_N = 64;                                        // columns that a warp writes at a time
constexpr int SLAB_STRIDE = OUT_N + 8;                           // floats; a warp's 16 rows on their way out
// What a thread may have: 168 at the launch; the copying warpgroup gives to the others.
constexpr int COPYING_REGISTERS = 40, MULTIPLYING_REGISTERS = 232;
static_assert(COPYING_REGISTERS + CONSUMERS * MULTIPLYING_REGISTERS <= 65536 / WARPGROUP, "a multiprocessor's registers");
static_assert(STAGES >= 2, "a stage is filled while another is read");
static_assert(CONSUMERS * 4 * 16 * SLAB_STRIDE * 4 <= SHARED_BYTES, "the way out reuses the stages");

// Stages in turn, and the parity of how often each was used.
struct Turn {
    int stage = 0;
    u32 parity = 0;
};
DEV void advance(Turn& turn) {
    if (++turn.stage == STAGES) {
        turn.stage = 0;
        turn.parity ^= 1;
    }
}

// One thread: every stage in turn, as soon as both warpgroups have multiplied what was in it.
template <bool B_IS_KN>
DEV void fill(const TileMap& a, const TileMap& b, u32 shared, u32 full, u32 empty, int m0, int n0, int steps) {
    Turn turn;
    for (int step = 0; step < steps; step++, advance(turn)) {
        const u32 stage_a = shared + turn.stage * STAGE_BYTES, stage_b = stage_a + A_BYTES, is_full = full + turn.stage * 8;
        // A new mbarrier's phase before the first counts as ended, so the first stages are free.
        mbarrier_wait(empty + turn.stage * 8, turn.parity ^ 1);
        mbarrier_arrive_expect(is_full, STAGE_BYTES);
        tile_load(stage_a, a, is_full, step * K, m0);
        if constexpr (B_IS_KN) {
#pragma unroll
            for (int slice = 0; slice < N / SLICE; slice++) {
                tile_load(stage_b + slice * SLICE_BYTES, b, is_full, n0 + slice * SLICE, step * K);
            }
        } else {
            tile_load(stage_b, b, is_full, step * K, n0);
        }
    }
}

// A warpgroup: its 64 rows of the product. The first product of a stage is not waited for before the next stage is ready.
template <bool B_IS_KN, class T>
DEV void multiply(float (&sum)[N / 2], u32 shared, u32 full, u32 empty, int consumer, int steps) {
    const bool is_first_lane = threadIdx.x % WARP_SIZE == 0;
    Turn turn;
    int before = 0;
    for (int step = 0; step < steps; step++, advance(turn)) {
        const u32 stage_a = shared + turn.stage * STAGE_BYTES + consumer * WARPGROUP_M * LINE;
        const u32 stage_b = shared + turn.stage * STAGE_BYTES + A_BYTES;
        mbarrier_wait(full + turn.stage * 8, turn.parity);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < K; k += 16) {
            const u64 operand_a = wgmma_operand(stage_a + k * 2, 0, EIGHT_LINES, Swizzle::BYTES_128);
            const u64 operand_b = B_IS_KN
                                      ? wgmma_operand(stage_b + k * LINE, SLICE_BYTES, EIGHT_LINES, Swizzle::BYTES_128)
                                      : wgmma_operand(stage_b + k * 2, 0, EIGHT_LINES, Swizzle::BYTES_128);
            wgmma<false, B_IS_KN>(T{}, sum, operand_a, operand_b);
        }
        wgmma_commit();
        // The step before has been multiplied now, and its stage may be filled again.
        wgmma_wait<1>();
        if (step > 0 && is_first_lane) mbarrier_arrive(empty + before * 8);
        before = turn.stage;
    }
    wgmma_wait<0>();
}

// A warp's 16 rows of C from row m and OUT_N columns from n on, as wgmma leaves them in `sum`. Turns them through its slab,
// so that a thread holds 8 columns of a row.
template <class Finish> DEV void rows_out(float* slab, const float* sum, int m, int n, int rows, int columns, Finish finish) {
    constexpr int RUNS = OUT_N / 8;
    const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (int j = 0; j < RUNS; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float* to = slab + (lane / 4 + half * 8) * SLAB_STRIDE + j * 8 + lane % 4 * 2;
            store_pair(to, sum[j * 4 + half * 2], sum[j * 4 + half * 2 + 1]);
        }
    }
    warp_barrier();
#pragma unroll 1
    for (int run = lane; run < 16 * RUNS; run += WARP_SIZE) {
        const int row = run / RUNS, column = run % RUNS * 8;
        if (m + row < rows && n + column < columns) {
            // 8 lanes read a row at a time. The last four of them take their second half first: then all banks differ.
            const float* from = slab + row * SLAB_STRIDE + column;
            const int swap = run / 4 % 2 * 4;
            const Vec<float> one = load_vec(from + swap), other = load_vec(from + 4 - swap);
            float v[8];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                v[e] = swap ? other.at[e] : one.at[e];
                v[e + 4] = swap ? one.at[e] : other.at[e];
            }
            finish(m + row, n + column, v);
        }
    }
    warp_barrier();
}

// Calls finish(m, n, v) with 8 neighbouring results v of row m, from column n on, for each such run inside of C.
template <bool B_IS_KN, class T, class Finish>
DEV void product(const TileMap& a, const TileMap& b, int rows, int columns, int depth, Finish finish) {
    DYNAMIC_SHARED(memory);
    SHARED(u64[2 * STAGES], barriers);
    const u32 shared = shared_address(memory), full = shared_address(barriers), empty = full + STAGES * 8;
    const int row_tiles = ceil_div(rows, M), column_tiles = ceil_div(columns, N), steps = ceil_div(depth, K);
    const int group = blockIdx.x / (GROUP * column_tiles), in_group = blockIdx.x % (GROUP * column_tiles);
    const int left = row_tiles - group * GROUP, height = left < GROUP ? left : GROUP;
    const int m0 = (group * GROUP + in_group % height) * M, n0 = in_group / height * N;
    if (threadIdx.x == 0) {
        tile_map_prefetch(a);
        tile_map_prefetch(b);
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(full + stage * 8, 1);
            mbarrier_init(empty + stage * 8, CONSUMERS * WARPGROUP / WARP_SIZE);
        }
        mbarrier_init_fence();
    }
    block_barrier();
    if (threadIdx.x < WARPGROUP) {
        lower_registers<COPYING_REGISTERS>();
        if (threadIdx.x == 0) fill<B_IS_KN>(a, b, shared, full, empty, m0, n0, steps);
    } else {
        raise_registers<MULTIPLYING_REGISTERS>();
        const int consumer = threadIdx.x / WARPGROUP - 1, warp = threadIdx.x / WARP_SIZE - WARPGROUP / WARP_SIZE;
        float sum[N / 2] = {};
        multiply<B_IS_KN, T>(sum, shared, full, empty, consumer, steps);
        // The way out reuses the stages, so nobody may still multiply.
        named_barrier(1, CONSUMERS * WARPGROUP);
        float* slab = reinterpret_cast<float*>(memory) + warp * 16 * SLAB_STRIDE;
        // Unrolled, so that the sums stay in registers.
#pragma unroll
        for (int n = 0; n < N; n += OUT_N) {
            rows_out(slab, sum + n / 2, m0 + warp * 16, n0 + n, rows, columns, finish);
        }
    }
}

}  // namespace warpgroup_tile

#endif
