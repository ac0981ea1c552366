// Attention without a score in memory: what the rungs 2 share.
//
// A block of 128 threads works on a tile of 64 rows of one head, 16 rows a warp, and passes over the other side in tiles
// of 64 rows. Scores are recomputed in registers, in groups of 16 columns; groups and warps without rows are skipped.
// The 16-bit types multiply on tensor cores; f32 by FMA, with the same values in the same lanes.
// W is the head size as computed with, a multiple of 16; zeros fill it up in shared memory. A row there is an odd number
// of 16-byte chunks, so that 8 rows of a chunk touch all banks once.
#pragma once

#include "include/copy_async.cuh"
#include "include/mma.cuh"
#include "include/reduce.cuh"
#include "include/vec.cuh"

namespace attention {

constexpr int ROWS = 64, THREADS = 128, STAGES = 2;
constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.69314718055994531f;

template <class T> constexpr int CHUNK = 16 / sizeof(T);                            // values in 16 bytes
template <class T, int W> constexpr int STRIDE = (W / CHUNK<T> | 1) * 16;             // bytes from a row to the next
template <class T, int W> constexpr int TILE = ROWS * STRIDE<T, W>;                   // bytes of 64 rows

// (16,COLUMNS) of a warp: lane l has of each 8 columns the two from 2 (l % 4) on, in row l / 4 and in row l / 4 + 8.
template <int COLUMNS> using Sums = float[COLUMNS / 8][4];

// 16 rows of W values as a product's first factor: in registers, or for f32 where they lie.
template <class T, int W> struct Operand {
    u32 at[W / 16][4];
};
template <int W> struct Operand<float, W> {
    const float* at;
};

#ifdef VITSCOPE_EMULATED

// 2^x; results below the smallest normal number are 0.
DEV float power_of_2(float x) {
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}
// Two values side by side in T, the first in the low half.
template <class T> DEV u32 pack(float first, float second) {
    return from_float<T>(first).bits | u32(from_float<T>(second).bits) << 16;
}

#else

DEV float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
template <class T> DEV u32 pack(float first, float second) {
    u32 pair;
    if constexpr (is_same<T, f16>) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

#endif

DEV int smaller(int a, int b) { return a < b ? a : b; }

// What a block works on: tile `tile` of head `h` of image `image`.
struct Place {
    int tile, h, image;
};
DEV Place place(int tiles, int H) {
    const int unit = blockIdx.x / tiles;
    return {int(blockIdx.x % tiles), unit % H, unit / H};
}

// Where an address of dynamic shared memory is.
DEV unsigned char* shared_pointer(u32 address) {
    DYNAMIC_SHARED(memory);
    return memory + (address - shared_address(memory));
}

// Rows `first` .. `first + 63` of one head, `stride` values apart, to shared memory; zeros past `rows`.
template <class T, int W> DEV void copy_rows(u32 to, const T* from, i64 stride, int first, int rows, int Dh) {
    constexpr int CHUNKS = W / CHUNK<T>;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        const bool is_inside = first + row < rows && chunk * CHUNK<T> < Dh;
        const T* source = is_inside ? from + (first + row) * stride + chunk * CHUNK<T> : from;
        copy_async_16(to + row * STRIDE<T, W> + chunk * 16, source, is_inside ? 16 : 0);
    }
}

// 16 rows of shared memory as a factor.
template <class T, int W> DEV void load_operand(Operand<T, W>& a, u32 rows) {
    if constexpr (is_same<T, float>) {
        a.at = reinterpret_cast<const float*>(shared_pointer(rows));
    } else {
        const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
        for (int k = 0; k < W / 16; k++) load_matrices(a.at[k], rows + lane % 16 * STRIDE<T, W> + (k * 2 + lane / 16) * 16);
    }
}

// s = a b^T for `groups` times 16 rows of b; the other columns are zero.
template <class T, int W, int COLUMNS>
DEV void scores(Sums<COLUMNS>& s, const Operand<T, W>& a, u32 b, int groups) {
    const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = 0.0f;
    }
    if constexpr (is_same<T, float>) {
        constexpr int ROW = STRIDE<T, W> / 4;
        const float* columns = reinterpret_cast<const float*>(shared_pointer(b)) + lane % 4 * 2 * ROW;
#pragma unroll 1
        for (int k = 0; k < W; k += 4) {
            const Vec<float> x[2] = {load_vec(a.at + lane / 4 * ROW + k), load_vec(a.at + (lane / 4 + 8) * ROW + k)};
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; j++) {
                if (j / 2 >= groups) break;
                const float* from = columns + j * 8 * ROW + k;
                const Vec<float> y[2] = {load_vec(from), load_vec(from + ROW)};
#pragma unroll
                for (int e = 0; e < 4; e++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) s[j][e] += x[e / 2].at[i] * y[e % 2].at[i];
                }
            }
        }
    } else {
        const u32 from = b + (lane / 16 * 8 + lane % 8) * STRIDE<T, W> + lane / 8 % 2 * 16;
#pragma unroll
        for (int j = 0; j < COLUMNS / 16; j++) {
            if (j >= groups) break;
#pragma unroll
            for (int k = 0; k < W / 16; k++) {
                u32 fragment[4];
                load_matrices(fragment, from + j * 16 * STRIDE<T, W> + k * 32);
                multiply(T{}, s[j * 2], a.at[k], fragment);
                multiply(T{}, s[j * 2 + 1], a.at[k], fragment + 2);
            }
        }
    }
}

// sum (16,W) += s b for `groups` times 16 rows of b; s is rounded to T.
template <class T, int W, int COLUMNS>
DEV void accumulate(Sums<W>& sum, const Sums<COLUMNS>& s, u32 b, int groups) {
    const int lane = threadIdx.x % WARP_SIZE;
    if constexpr (is_same<T, float>) {
        constexpr int ROW = STRIDE<T, W> / 4;
        const float* rows = reinterpret_cast<const float*>(shared_pointer(b)) + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; j++) {
            if (j / 2 >= groups) break;
            // The four lanes of a row give each other their columns.
#pragma unroll 1
            for (int owner = 0; owner < 4; owner++) {
                const float* from = rows + (j * 8 + owner * 2) * ROW;
                float x[4];
#pragma unroll
                for (int e = 0; e < 4; e++) x[e] = broadcast(s[j][e], lane / 4 * 4 + owner);
#pragma unroll
                for (int n = 0; n < W / 8; n++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        sum[n][e] += x[e / 2 * 2] * from[n * 8 + e % 2];
                        sum[n][e] += x[e / 2 * 2 + 1] * from[ROW + n * 8 + e % 2];
                    }
                }
            }
        }
    } else {
        const u32 from = b + lane % 16 * STRIDE<T, W> + lane / 16 * 16;
#pragma unroll
        for (int j = 0; j < COLUMNS / 16; j++) {
            if (j >= groups) break;
            // Sums of two neighbouring 8 x 8 tiles lie as operand A wants them.
            const u32 a[4] = {pack<T>(s[j * 2][0], s[j * 2][1]), pack<T>(s[j * 2][2], s[j * 2][3]),
                              pack<T>(s[j * 2 + 1][0], s[j * 2 + 1][1]), pack<T>(s[j * 2 + 1][2], s[j * 2 + 1][3])};
#pragma unroll
            for (int n = 0; n < W / 16; n++) {
                u32 fragment[4];
                load_matrices_transposed(fragment, from + j * 16 * STRIDE<T, W> + n * 32);
                multiply(T{}, sum[n * 2], a, fragment);
                multiply(T{}, sum[n * 2 + 1], a, fragment + 2);
            }
        }
    }
}

// The warp's 16 rows of sums, each times its factor, to rows `first`.. of memory, as far as `rows`. They pass through 16
// rows of shared memory that no other warp uses.
template <class T, int W>
DEV void store_rows(T* to, i64 stride, int first, int rows, int Dh, unsigned char* shared, const Sums<W>& sum,
                    const float (&factor)[2]) {
    // The chunk that pads a row gets an idle lane, unless 8 lanes stay within a row without: then all banks differ.
    constexpr int CHUNKS = W / CHUNK<T> % 8 == 0 ? W / CHUNK<T> : STRIDE<T, W> / 16;
    const int lane = threadIdx.x % WARP_SIZE;
    warp_barrier();
#pragma unroll
    for (int n = 0; n < W / 8; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float one = sum[n][half * 2] * factor[half], other = sum[n][half * 2 + 1] * factor[half];
            unsigned char* at = shared + (lane / 4 + half * 8) * STRIDE<T, W> + (n * 8 + lane % 4 * 2) * sizeof(T);
            if constexpr (is_same<T, float>) store_pair(reinterpret_cast<float*>(at), one, other);
            else *reinterpret_cast<u32*>(at) = pack<T>(one, other);
        }
    }
    warp_barrier();
    for (int i = lane; i < 16 * CHUNKS; i += WARP_SIZE) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        if (first + row < rows && chunk * CHUNK<T> < Dh) {
            const T* from = reinterpret_cast<const T*>(shared + row * STRIDE<T, W> + chunk * 16);
            store_vec(to + (first + row) * stride + chunk * CHUNK<T>, load_vec(from));
        }
    }
}

// Sum over the 4 lanes that share a row of an operand.
DEV float row_sum(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}

DEV float row_max(float x) {
    x = fmaxf(x, shuffle_xor(x, 1));
    return fmaxf(x, shuffle_xor(x, 2));
}

}  // namespace attention
