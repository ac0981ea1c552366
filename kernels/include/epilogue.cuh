// What follows a matrix product: fragments become runs of 8 columns, which take bias, residual and activation.
#pragma once

#include "include/activation.cuh"
#include "include/reduce.cuh"
#include "include/vec.cuh"

namespace epilogue {

// Floats from one row of a warp's slab to the next: 16 rows of COLUMNS, on their way out.
template <int COLUMNS> constexpr int SLAB_STRIDE = COLUMNS + 8;
template <int COLUMNS> constexpr int SLAB_FLOATS = 16 * SLAB_STRIDE<COLUMNS>;

// A warp's 16 rows of C from row m and column n on, as fragments: sum[4j..4j+3] are columns 8j.. as in mma.cuh. Turns them
// through its slab and calls finish(m, n, v) with 8 neighbouring values v of a row, for each such run inside of C.
template <int COLUMNS, class Finish>
DEV void rows_out(float* slab, const float* sum, int m, int n, int rows, int columns, Finish finish) {
    constexpr int RUNS = COLUMNS / 8, STRIDE = SLAB_STRIDE<COLUMNS>;
    static_assert(RUNS == 4 || RUNS == 8, "which banks differ below depends on it");
    const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (int j = 0; j < RUNS; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float* to = slab + (lane / 4 + half * 8) * STRIDE + j * 8 + lane % 4 * 2;
            store_pair(to, sum[j * 4 + half * 2], sum[j * 4 + half * 2 + 1]);
        }
    }
    warp_barrier();
#pragma unroll 1
    for (int run = lane; run < 16 * RUNS; run += WARP_SIZE) {
        const int row = run / RUNS, column = run % RUNS * 8;
        if (m + row < rows && n + column < columns) {
            // 8 lanes read at a time. The last four of them take their second half first: then all banks differ.
            const float* from = slab + row * STRIDE + column;
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

// y and u (.,N) at (m, n..n+7), of the product v: y = act(v + bias), or residual + v + bias.
template <class T>
DEV void finish_forward(T* y, T* u, const float* bias, const T* residual, i64 residual_stride, int activation, int N, int m,
                        int n, float (&v)[8]) {
    if (bias) {
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            const Vec<float> b = load_vec(bias + n + i);
#pragma unroll
            for (int e = 0; e < 4; e++) v[i + e] += b.at[e];
        }
    }
    if (residual) {
        const Vec<T> r = load_vec(residual + m * residual_stride + n);
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] += to_float(r.at[e]);
    }
    Vec<T> out;
    if (u) {
#pragma unroll
        for (int e = 0; e < 8; e++) out.at[e] = from_float<T>(v[e]);
        store_vec(u + i64(m) * N + n, out);
    }
#pragma unroll
    for (int e = 0; e < 8; e++) out.at[e] = from_float<T>(activate(activation, v[e]));
    store_vec(y + i64(m) * N + n, out);
}

// dx (.,N) at (m, n..n+7), of the product v: v times the activation's slope at row m % rows of u (rows,N).
template <class T>
DEV void finish_reverse(T* dx, const T* u, int rows, int activation, int N, int m, int n, float (&v)[8]) {
    if (u) {
        const Vec<T> before = load_vec(u + i64(m % rows) * N + n);
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] *= activation_slope(activation, to_float(before.at[e]));
    }
    Vec<T> out;
#pragma unroll
    for (int e = 0; e < 8; e++) out.at[e] = from_float<T>(v[e]);
    store_vec(dx + i64(m) * N + n, out);
}

}  // namespace epilogue
