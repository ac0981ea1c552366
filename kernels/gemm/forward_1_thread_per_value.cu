// gemm / forward_1_thread_per_value.cu                                                                  rung 1 of 3
// out  y (M,N) T; u (M,N) T or null: the values before the activation
// in   x (M,K) T, w (N,K) T, bias (N) f32 or null, residual rows of N `residual_stride` apart T or null
//      y = act(x w^T + bias), or residual + x w^T + bias                                T = f32, f16 or bf16
// idea        the obvious loop: one thread makes one value
// needs       any GPU; any M, N, K
// bytes/flops (M*K + N*K + M*N) values; 2*M*N*K flops
// predicted   limited by L1 loads: 1 to 3 % of the tensor cores' rate
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/gemm.rs
#include "include/activation.cuh"

template <class T>
DEV void gemm(T* y, T* u, const T* x, const T* w, const float* bias, const T* residual, i64 residual_stride, int activation,
              int M, int N, int K) {
    // Rows, which may be many, lie in the grid's x.
    const int n = blockIdx.y * blockDim.x + threadIdx.x, m = blockIdx.x * blockDim.y + threadIdx.y;
    if (m >= M || n >= N) return;
    float sum = 0.0f;
    for (int k = 0; k < K; k++) sum += to_float(x[i64(m) * K + k]) * to_float(w[i64(n) * K + k]);
    if (bias) sum += bias[n];
    if (residual) sum += to_float(residual[m * residual_stride + n]);
    if (u) u[i64(m) * N + n] = from_float<T>(sum);
    y[i64(m) * N + n] = from_float<T>(activate(activation, sum));
}

#define ENTRY(T)                                                                                                       \
    KERNEL void gemm_forward__1__##T(T* y, T* u, const T* x, const T* w, const float* bias, const T* residual,         \
                                     i64 residual_stride, int activation, int M, int N, int K) {                       \
        gemm(y, u, x, w, bias, residual, residual_stride, activation, M, N, K);                                        \
    }                                                                                                                  \
    REGISTER_KERNEL(gemm_forward__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
