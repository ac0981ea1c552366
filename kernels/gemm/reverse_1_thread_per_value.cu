// gemm / reverse_1_thread_per_value.cu                                                                  rung 1 of 3
// out  dx (M,N) T = (dy w) * act'(u)
// in   dy (M,K) T, w (K,N) T: the forward's weight as it lies, u (rows,N) T or null: gradient row m belongs to row m % rows
//                                                                                       T = f32, f16 or bf16
// idea        the obvious loop: one thread makes one value
// needs       any GPU; any M, N, K
// bytes/flops (M*K + N*K + M*N) values; 2*M*N*K flops
// predicted   limited by L1 loads: 1 to 3 % of the tensor cores' rate
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/gemm.rs
#include "include/activation.cuh"

template <class T>
DEV void gemm_reverse(T* dx, const T* dy, const T* w, const T* u, int rows, int activation, int M, int N, int K) {
    // Rows, which may be many, lie in the grid's x.
    const int n = blockIdx.y * blockDim.x + threadIdx.x, m = blockIdx.x * blockDim.y + threadIdx.y;
    if (m >= M || n >= N) return;
    float sum = 0.0f;
    for (int k = 0; k < K; k++) sum += to_float(dy[i64(m) * K + k]) * to_float(w[i64(k) * N + n]);
    if (u) sum *= activation_slope(activation, to_float(u[i64(m % rows) * N + n]));
    dx[i64(m) * N + n] = from_float<T>(sum);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void gemm_reverse__1__##T(T* dx, const T* dy, const T* w, const T* u, int rows, int activation, int M,      \
                                     int N, int K) {                                                                   \
        gemm_reverse(dx, dy, w, u, rows, activation, M, N, K);                                                         \
    }                                                                                                                  \
    REGISTER_KERNEL(gemm_reverse__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
