// The block tile of a matrix product on tensor cores: mma.sync fed by a pipeline of cp.async stages.
//
// C (M,N) = A (M,K) B, f32 accumulation in the order of k. B is (N,K), or (K,N) when B_IS_KN. K % 8 == 0, N % 8 == 0.
// A block of 256 threads makes 128 x 128 of C, its 8 warps 64 x 32 each. A stage holds 32 of K. Rows in shared memory
// are swizzled by chunks of 16 bytes, so that both the copies and ldmatrix touch all banks once.
// All blocks lie in grid.x, in groups of GROUP row tiles: consecutive blocks share a tile of B, and the group's tiles of
// A stay in the cache while it goes over all of B's. tile_f32.cuh has the same tile for f32.
#pragma once

#include "include/copy_async.cuh"
#include "include/mma.cuh"
#include "include/reduce.cuh"
#include "include/vec.cuh"

namespace tile {

constexpr int M = 128, N = 128, K = 32, THREADS = 256;
#ifndef TILE_STAGES
#define TILE_STAGES 4
#endif
constexpr int STAGES = TILE_STAGES;
constexpr int WARP_M = 64, WARP_N = 32;
constexpr int CHUNK = 8;                                         // halves in 16 bytes
constexpr int GROUP = 16;                                        // row tiles that go over B together
constexpr int A_BYTES = M * K * 2, STAGE_BYTES = (M + N) * K * 2;
constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;               // the launch's dynamic shared memory
constexpr int SLAB_STRIDE = WARP_N + 8;                          // floats; a warp's 16 rows on their way out
static_assert(STAGES >= 2, "a stage is filled while another is read");
static_assert(THREADS / WARP_SIZE * 16 * SLAB_STRIDE * 4 <= SHARED_BYTES, "the way out reuses the stages");

// Byte offset of a chunk in rows of 64 bytes (4 chunks, two rows to a line of banks) or of 256 bytes (16 chunks).
DEV u32 narrow_chunk(int row, int chunk) { return u32(row * 64 + (chunk ^ (row >> 1 & 3)) * 16); }
DEV u32 wide_chunk(int row, int chunk) { return u32(row * 256 + (chunk ^ (row & 7)) * 16); }

// The first row and column of this block's tile of C.
struct Corner {
    int m, n;
};

DEV Corner corner(int rows, int columns) {
    const int row_tiles = ceil_div(rows, M), column_tiles = ceil_div(columns, N);
    const int group = blockIdx.x / (GROUP * column_tiles), in_group = blockIdx.x % (GROUP * column_tiles);
    const int left = row_tiles - group * GROUP, height = left < GROUP ? left : GROUP;
    return {(group * GROUP + in_group % height) * M, in_group / height * N};
}

// Rows `row0`.. and columns `column0`.. of a matrix (rows,columns) to shared memory; zeros outside of it. place(row, chunk)
// is where 16 bytes go.
template <int ROWS, int CHUNKS, class T, class Place>
DEV void copy_tile(u32 to, const T* from, int rows, int columns, int row0, int column0, Place place) {
    constexpr int CHUNK = Vec<T>::SIZE;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        const bool is_inside = row0 + row < rows && column0 + chunk * CHUNK < columns;
        const T* source = is_inside ? from + i64(row0 + row) * columns + column0 + chunk * CHUNK : from;
        copy_async_16(to + place(row, chunk), source, is_inside ? 16 : 0);
    }
}

// Makes the tile from row m0 and column n0 on. Calls finish(m, n, v) with 8 neighbouring results v of row m, from column n
// on, for each such run inside of C. Before the next tile the block needs a barrier.
template <bool B_IS_KN, class T, class Finish>
DEV void product_at(const T* a, const T* b, int rows, int columns, int depth, int m0, int n0, Finish finish) {
    DYNAMIC_SHARED(memory);
    const u32 shared = shared_address(memory);
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    const int warp_m = warp / (N / WARP_N) * WARP_M, warp_n = warp % (N / WARP_N) * WARP_N;
    const int steps = ceil_div(depth, K);

    auto fill = [&](int step) {
        if (step < steps) {
            const u32 stage = shared + step % STAGES * STAGE_BYTES;
            copy_tile<M, K / CHUNK>(stage, a, rows, depth, m0, step * K, narrow_chunk);
            if constexpr (B_IS_KN) copy_tile<K, N / CHUNK>(stage + A_BYTES, b, depth, columns, step * K, n0, wide_chunk);
            else copy_tile<N, K / CHUNK>(stage + A_BYTES, b, columns, depth, n0, step * K, narrow_chunk);
        }
        // An empty group keeps the count of groups equal to the count of steps.
        copy_async_commit();
    };

    float sum[WARP_M / 16][WARP_N / 8][4] = {};
    for (int step = 0; step < STAGES - 1; step++) fill(step);
    for (int step = 0; step < steps; step++) {
        copy_async_wait<STAGES - 2>();
        // Everyone's copies of this stage are there, and everyone has read the stage that is filled next.
        block_barrier();
        fill(step + STAGES - 1);
        const u32 stage_a = shared + step % STAGES * STAGE_BYTES, stage_b = stage_a + A_BYTES;
#pragma unroll
        for (int k = 0; k < K; k += 16) {
            u32 fragment_a[WARP_M / 16][4], fragment_b[WARP_N / 16][4];
#pragma unroll
            for (int i = 0; i < WARP_M / 16; i++) {
                load_matrices(fragment_a[i], stage_a + narrow_chunk(warp_m + i * 16 + lane % 16, k / CHUNK + lane / 16));
            }
            // Matrices of B: the first and second half of k, for 8 columns and for the next 8.
            const int half = lane / 8 % 2, next = lane / 16;
#pragma unroll
            for (int j = 0; j < WARP_N / 16; j++) {
                const int n = warp_n + j * 16 + next * 8;
                if constexpr (B_IS_KN) {
                    load_matrices_transposed(fragment_b[j], stage_b + wide_chunk(k + half * 8 + lane % 8, n / CHUNK));
                } else {
                    load_matrices(fragment_b[j], stage_b + narrow_chunk(n + lane % 8, k / CHUNK + half));
                }
            }
#pragma unroll
            for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
                for (int j = 0; j < WARP_N / 8; j++) multiply(T{}, sum[i][j], fragment_a[i], &fragment_b[j / 2][j % 2 * 2]);
            }
        }
    }

    // The way out: each warp turns 16 rows at a time through shared memory, so that a thread holds 8 columns of a row.
    copy_async_wait<0>();
    block_barrier();
    float* slab = reinterpret_cast<float*>(memory) + warp * 16 * SLAB_STRIDE;
    // Unrolled, so that the sums stay in registers.
#pragma unroll
    for (int i = 0; i < WARP_M / 16; i++) {
#pragma unroll
        for (int j = 0; j < WARP_N / 8; j++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float* to = slab + (lane / 4 + half * 8) * SLAB_STRIDE + j * 8 + lane % 4 * 2;
                store_pair(to, sum[i][j][half * 2], sum[i][j][half * 2 + 1]);
            }
        }
        warp_barrier();
#pragma unroll 1
        for (int run = lane; run < 16 * WARP_N / 8; run += WARP_SIZE) {
            const int row = run / (WARP_N / 8), column = run % (WARP_N / 8) * 8;
            const int m = m0 + warp_m + i * 16 + row, n = n0 + warp_n + column;
            if (m < rows && n < columns) {
                // 8 lanes read two rows at a time. The odd row takes its second half first: then all banks differ.
                const float* from = slab + row * SLAB_STRIDE + column;
                const int swap = row % 2 * 4;
                const Vec<float> one = load_vec(from + swap), other = load_vec(from + 4 - swap);
                float v[8];
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    v[e] = swap ? other.at[e] : one.at[e];
                    v[e + 4] = swap ? one.at[e] : other.at[e];
                }
                finish(m, n, v);
            }
        }
        warp_barrier();
    }
}

// The block's own tile.
template <bool B_IS_KN, class T, class Finish>
DEV void product(const T* a, const T* b, int rows, int columns, int depth, Finish finish) {
    const auto [m0, n0] = corner(rows, columns);
    product_at<B_IS_KN>(a, b, rows, columns, depth, m0, n0, finish);
}

}  // namespace tile
