// gemm / forward_2_mma_stages.cu                                                                        rung 2 of 3
// out  y (M,N) T; u (M,N) T or null: the values before the activation
// in   x (M,K) T, w (N,K) T, bias (N) f32 or null, residual rows of N `residual_stride` apart T or null
//      y = act(x w^T + bias), or residual + x w^T + bias                                T = f32, f16 or bf16
// idea        128 x 128 tiles on tensor cores (f32: 8 x 8 multiply-adds a thread), 4 cp.async stages; bias, residual and
//             activation on 16-byte runs. 16 row tiles go over the weight together: neighbouring blocks share its tile
// needs       sm_80+; K, N and residual_stride multiples of 16 bytes, pointers aligned to 16; 256 threads, 64 KiB shared memory
// bytes/flops per tile (128 + 128) K values read, M*N written; 2*M*N*K flops
// predicted   50 % of mma.sync's peak on sm_80; on sm_90 mma.sync reaches about 60 % of wgmma's rate, so 30 % of peak;
//             f32: 70 % of the peak of multiply-adds, from one block an SM for its 64 sums and 32 values of x a thread
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/gemm.rs
#include "include/activation.cuh"
#include "include/tile_f32.cuh"
#include "include/vec.cuh"

template <class T>
DEV void gemm(T* y, T* u, const T* x, const T* w, const float* bias, const T* residual, i64 residual_stride, int activation,
              int M, int N, int K) {
    constexpr int SIZE = Vec<T>::SIZE;
    tile::product<false>(x, w, M, N, K, [&](int m, int n, float(&v)[SIZE]) {
        if (bias) {
#pragma unroll
            for (int i = 0; i < SIZE; i += 4) {
                const Vec<float> b = load_vec(bias + n + i);
#pragma unroll
                for (int e = 0; e < 4; e++) v[i + e] += b.at[e];
            }
        }
        if (residual) {
            const Vec<T> r = load_vec(residual + m * residual_stride + n);
#pragma unroll
            for (int e = 0; e < SIZE; e++) v[e] += to_float(r.at[e]);
        }
        Vec<T> out;
        if (u) {
#pragma unroll
            for (int e = 0; e < SIZE; e++) out.at[e] = from_float<T>(v[e]);
            store_vec(u + i64(m) * N + n, out);
        }
#pragma unroll
        for (int e = 0; e < SIZE; e++) out.at[e] = from_float<T>(activate(activation, v[e]));
        store_vec(y + i64(m) * N + n, out);
    });
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(tile::THREADS, is_same<T, float> ? 1 : 2)                                                                    \
        gemm_forward__2__##T(T* y, T* u, const T* x, const T* w, const float* bias, const T* residual,                 \
                             i64 residual_stride, int activation, int M, int N, int K) {                               \
        gemm(y, u, x, w, bias, residual, residual_stride, activation, M, N, K);                                        \
    }                                                                                                                  \
    REGISTER_KERNEL(gemm_forward__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
