// gemm / reverse_3_tma_wgmma.cu                                                                         rung 3 of 3
// out  dx (M,N) T = (dy w) * act'(u)
// in   dy (M,K) T and w (K,N) T, the forward's weight as it lies, as maps of rows, boxes {64, 128} and {64, 64}, 128-byte
//      swizzle; u (rows,N) T or null: gradient row m belongs to row m % rows                     T = f16 or bf16
// idea        as forward rung 3; wgmma reads the weight with its rows contiguous in n, so nothing is transposed
// needs       sm_90a; K and N multiples of 8, pointers aligned to 16; 384 threads, 192 KiB of shared memory
// bytes/flops per tile (128 + 256) K values read, M*N written; 2*M*N*K flops
// predicted   as forward rung 3
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/gemm_hopper.rs
#include "include/activation.cuh"
#include "include/warpgroup_tile.cuh"

#ifdef HAS_SM_90A

template <class T>
DEV void gemm_reverse(T* dx, const TileMap& dy, const TileMap& w, const T* u, int rows, int activation, int M, int N, int K) {
    warpgroup_tile::product<true, T>(dy, w, M, N, K, [&](int m, int n, float(&v)[8]) {
        Vec<T> out;
        if (u) {
            const Vec<T> before = load_vec(u + i64(m % rows) * N + n);
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] *= activation_slope(activation, to_float(before.at[e]));
        }
#pragma unroll
        for (int e = 0; e < 8; e++) out.at[e] = from_float<T>(v[e]);
        store_vec(dx + i64(m) * N + n, out);
    });
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(warpgroup_tile::THREADS, 1)                                                          \
        gemm_reverse__3__##T(T* dx, const __grid_constant__ TileMap dy, const __grid_constant__ TileMap w, const T* u, \
                             int rows, int activation, int M, int N, int K) {                                          \
        gemm_reverse(dx, dy, w, u, rows, activation, M, N, K);                                                         \
    }                                                                                                                  \
    REGISTER_KERNEL(gemm_reverse__3__##T)

ENTRY(f16)
ENTRY(bf16)

#endif
