// gemm / forward_3_tma_wgmma.cu                                                                         rung 3 of 3
// out  y (M,N) T; u (M,N) T or null: the values before the activation
// in   x (M,K) T and w (N,K) T as maps of rows, boxes {64, 128} and {64, 256}, 128-byte swizzle; bias (N) f32 or null,
//      residual rows of N `residual_stride` apart T or null
//      y = act(x w^T + bias), or residual + x w^T + bias                                T = f16 or bf16
// idea        128 x 256 tiles: one thread feeds 4 stages by the copy engine, two warpgroups multiply by wgmma
// needs       sm_90a; K, N and residual_stride multiples of 8, pointers aligned to 16; 384 threads, 192 KiB shared memory
// bytes/flops per tile (128 + 256) K values read, M*N written; 2*M*N*K flops
// predicted   60 % of sm_90's peak for many tiles: the way out of a tile is not yet under the next tile's products
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/gemm_hopper.rs
#include "include/activation.cuh"
#include "include/warpgroup_tile.cuh"

#ifdef HAS_SM_90A

template <class T>
DEV void gemm(T* y, T* u, const TileMap& x, const TileMap& w, const float* bias, const T* residual, i64 residual_stride,
              int activation, int M, int N, int K) {
    warpgroup_tile::product<false, T>(x, w, M, N, K, [&](int m, int n, float(&v)[8]) {
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
    });
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(warpgroup_tile::THREADS, 1)                                                          \
        gemm_forward__3__##T(T* y, T* u, const __grid_constant__ TileMap x, const __grid_constant__ TileMap w,         \
                             const float* bias, const T* residual, i64 residual_stride, int activation, int M, int N,  \
                             int K) {                                                                                  \
        gemm(y, u, x, w, bias, residual, residual_stride, activation, M, N, K);                                        \
    }                                                                                                                  \
    REGISTER_KERNEL(gemm_forward__3__##T)

ENTRY(f16)
ENTRY(bf16)

#endif
