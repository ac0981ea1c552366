// gemm / reverse_2_mma_stages.cu                                                                        rung 2 of 3
// out  dx (M,N) T = (dy w) * act'(u)
// in   dy (M,K) T, w (K,N) T: the forward's weight as it lies, u (rows,N) T or null: gradient row m belongs to row m % rows
//                                                                                       T = f32, f16 or bf16
// idea        as forward rung 2, with the weight's fragments transposed by ldmatrix on their way into registers
// needs       sm_80+; K and N multiples of 16 bytes, pointers aligned to 16; 256 threads, 64 KiB of shared memory
// bytes/flops per tile (128 + 128) K values read, M*N written; 2*M*N*K flops
// predicted   as forward rung 2
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/gemm.rs
#include "include/activation.cuh"
#include "include/tile_f32.cuh"
#include "include/vec.cuh"

template <class T>
DEV void gemm_reverse(T* dx, const T* dy, const T* w, const T* u, int rows, int activation, int M, int N, int K) {
    constexpr int SIZE = Vec<T>::SIZE;
    tile::product<true>(dy, w, M, N, K, [&](int m, int n, float(&v)[SIZE]) {
        Vec<T> out;
        if (u) {
            const Vec<T> before = load_vec(u + i64(m % rows) * N + n);
#pragma unroll
            for (int e = 0; e < SIZE; e++) v[e] *= activation_slope(activation, to_float(before.at[e]));
        }
#pragma unroll
        for (int e = 0; e < SIZE; e++) out.at[e] = from_float<T>(v[e]);
        store_vec(dx + i64(m) * N + n, out);
    });
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(tile::THREADS, is_same<T, float> ? 1 : 2)                                                                    \
        gemm_reverse__2__##T(T* dx, const T* dy, const T* w, const T* u, int rows, int activation, int M, int N,       \
                             int K) {                                                                                  \
        gemm_reverse(dx, dy, w, u, rows, activation, M, N, K);                                                         \
    }                                                                                                                  \
    REGISTER_KERNEL(gemm_reverse__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
