// tile.cuh's block tile for f32: the same product, tile and stages, by fused multiply-adds instead of tensor cores.
//
// K % 4 == 0, N % 4 == 0. A warp makes 32 x 64 of C, its lanes stand 4 x 8 and make 8 x 8 each: rows 4 r.. and 16 + 4 r..,
// columns 4 c.. and 32 + 4 c... A stage holds 16 of K; a thread takes 4 of them at a time. Each sum goes in the order of k,
// as in rung 1.
#pragma once

#include "include/tile.cuh"

namespace tile {

constexpr int K_F32 = 16, CHUNK_F32 = 4, WIDE = 64;
static_assert(THREADS / WARP_SIZE * 16 * WIDE * 4 <= SHARED_BYTES, "the way out reuses the stages");
static_assert((M + N) * K_F32 * 4 == STAGE_BYTES, "stages are those of the 16-bit types");

// Byte offset of a chunk in rows of 64 bytes: rows that lie 4 apart, as lanes read them, differ in their banks.
DEV u32 quad_chunk(int row, int chunk) { return u32((row >> 1) * 128 + ((row % 2 * 4 + chunk) ^ (row >> 2 & 7)) * 16); }
// In rows of 512 bytes lanes read neighbours.
DEV u32 plain_chunk(int row, int chunk) { return u32(row * 512 + chunk * 16); }

// A as it is.
struct Unchanged {};

// As the product of 16-bit types, but finish(m, n, v) has 4 neighbouring results, and change(m, k, v) may change 4
// neighbours of A, from column k of row m on, before they are multiplied.
template <bool B_IS_KN, class Finish, class Change = Unchanged>
DEV void product(const float* a, const float* b, int rows, int columns, int depth, Finish finish, Change change = {}) {
    DYNAMIC_SHARED(memory);
    const u32 shared = shared_address(memory);
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    const auto [m0, n0] = corner(rows, columns);
    const int lane_m = warp / 2 * 32 + lane / 8 * 4, lane_n = warp % 2 * WIDE + lane % 8 * 4;
    const int steps = ceil_div(depth, K_F32);

    auto fill = [&](int step) {
        if (step < steps) {
            const u32 stage = shared + step % STAGES * STAGE_BYTES;
            const int k = step * K_F32;
            copy_tile<M, K_F32 / CHUNK_F32>(stage, a, rows, depth, m0, k, quad_chunk);
            if constexpr (B_IS_KN) copy_tile<K_F32, N / CHUNK_F32>(stage + A_BYTES, b, depth, columns, k, n0, plain_chunk);
            else copy_tile<N, K_F32 / CHUNK_F32>(stage + A_BYTES, b, columns, depth, n0, k, quad_chunk);
        }
        // An empty group keeps the count of groups equal to the count of steps.
        copy_async_commit();
    };

    float sum[8][8] = {};
    for (int step = 0; step < STAGES - 1; step++) fill(step);
    for (int step = 0; step < steps; step++) {
        copy_async_wait<STAGES - 2>();
        if constexpr (!is_same<Change, Unchanged>) {
            // Each thread changes what it copied itself, so it need not wait for the others yet.
            for (int i = threadIdx.x; i < M * K_F32 / CHUNK_F32; i += THREADS) {
                const int row = i / (K_F32 / CHUNK_F32), chunk = i % (K_F32 / CHUNK_F32), k = step * K_F32 + chunk * CHUNK_F32;
                if (m0 + row < rows && k < depth) {
                    float* at = reinterpret_cast<float*>(memory + step % STAGES * STAGE_BYTES + quad_chunk(row, chunk));
                    Vec<float> v = load_vec(at);
                    change(m0 + row, k, v.at);
                    store_vec(at, v);
                }
            }
        }
        // Everyone's copies of this stage are there, and everyone has read the stage that is filled next.
        block_barrier();
        fill(step + STAGES - 1);
        const unsigned char* stage = memory + step % STAGES * STAGE_BYTES;
        auto chunk_at = [&](u32 at) { return load_vec(reinterpret_cast<const float*>(stage + at)); };
#pragma unroll 2
        for (int chunk = 0; chunk < K_F32 / CHUNK_F32; chunk++) {
            Vec<float> row[8];
#pragma unroll
            for (int i = 0; i < 8; i++) row[i] = chunk_at(quad_chunk(lane_m + i / 4 * 16 + i % 4, chunk));
            if constexpr (B_IS_KN) {
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const int at = chunk * 4 + k;
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const Vec<float> columns4 = chunk_at(A_BYTES + plain_chunk(at, lane_n / 4 + half * 8));
#pragma unroll
                        for (int i = 0; i < 8; i++) {
#pragma unroll
                            for (int j = 0; j < 4; j++) sum[i][half * 4 + j] += row[i].at[k] * columns4.at[j];
                        }
                    }
                }
            } else {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    const Vec<float> column = chunk_at(A_BYTES + quad_chunk(lane_n + j / 4 * 32 + j % 4, chunk));
#pragma unroll
                    for (int k = 0; k < 4; k++) {
#pragma unroll
                        for (int i = 0; i < 8; i++) sum[i][j] += row[i].at[k] * column.at[k];
                    }
                }
            }
        }
    }

    // The way out: each warp puts 16 rows at a time into shared memory, so that the epilogue stands once in the code.
    copy_async_wait<0>();
    block_barrier();
    float* slab = reinterpret_cast<float*>(memory) + warp * 16 * WIDE;
    const int warp_m = warp / 2 * 32, warp_n = warp % 2 * WIDE;
#pragma unroll
    for (int block = 0; block < 2; block++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            Vec<float> v;
#pragma unroll
            for (int j = 0; j < 4; j++) v.at[j] = sum[block * 4 + i % 4][i / 4 * 4 + j];
            store_vec(slab + (lane / 8 * 4 + i % 4) * WIDE + i / 4 * 32 + lane % 8 * 4, v);
        }
        warp_barrier();
#pragma unroll 1
        for (int run = lane; run < 16 * WIDE / 4; run += WARP_SIZE) {
            const int m = m0 + warp_m + block * 16 + run / (WIDE / 4), n = n0 + warp_n + run % (WIDE / 4) * 4;
            if (m < rows && n < columns) {
                Vec<float> v = load_vec(slab + run * 4);
                finish(m, n, v.at);
            }
        }
        warp_barrier();
    }
}

}  // namespace tile
