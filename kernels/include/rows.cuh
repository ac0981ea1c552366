// Products and sums of rows, 16 bytes a lane.
#pragma once

#include "include/reduce.cuh"
#include "include/vec.cuh"

// Adds SIZE products of floats with the values of a vector to `sum`.
template <class T> DEV float multiply_add(const float* a, const Vec<T>& b, float sum) {
#pragma unroll
    for (int i = 0; i < Vec<T>::SIZE; i += 4) {
        const Vec<float> a4 = load_vec(a + i);
#pragma unroll
        for (int e = 0; e < 4; e++) sum += a4.at[e] * to_float(b.at[i + e]);
    }
    return sum;
}

// Columns that a block sums at once.
template <class T> constexpr int SUMMED = WARP_SIZE * Vec<T>::SIZE;
constexpr int SUM_WARPS = 8;

// The sums of SUMMED columns (those below D) over `rows` rows of D, in partial[0], by a block of SUM_WARPS warps: each
// takes every eighth row, and their sums are added in order.
template <class T> DEV void sum_columns(float (&partial)[SUM_WARPS][SUMMED<T>], const T* x, int rows, int D, int column) {
    constexpr int SIZE = Vec<T>::SIZE;
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    float sum[SIZE] = {};
    if (column + lane * SIZE < D) {
        for (int row = warp; row < rows; row += SUM_WARPS) {
            const Vec<T> v = load_vec(x + i64(row) * D + column + lane * SIZE);
#pragma unroll
            for (int e = 0; e < SIZE; e++) sum[e] += to_float(v.at[e]);
        }
    }
#pragma unroll
    for (int i = 0; i < SIZE; i += 4) {
        Vec<float> v;
#pragma unroll
        for (int e = 0; e < 4; e++) v.at[e] = sum[i + e];
        store_vec(&partial[warp][lane * SIZE + i], v);
    }
    block_barrier();
    for (int c = threadIdx.x; c < SUMMED<T>; c += SUM_WARPS * WARP_SIZE) {
#pragma unroll
        for (int w = 1; w < SUM_WARPS; w++) partial[0][c] += partial[w][c];
    }
    block_barrier();
}
