// layer_norm / forward_1_thread_per_row.cu                                                              rung 1 of 2
// out  y (n,D) T, stats (n,2) f32: mean and rstd = 1/sqrt(var + eps)
// in   x rows of D, `stride` values apart, T; gain (D), bias (D) f32                    T = f32, f16 or bf16
// idea        the obvious loop: one thread reads its row three times
// needs       any GPU; any D, any n
// bytes/flops (3 reads + 1 write) of n*D values + 8n bytes; about 8*n*D flops
// predicted   neighbouring threads read a row apart: one 32-byte sector per value, so 4 to 8 times the bytes of rung 2
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/layer_norm.rs
#include "include/types.cuh"

template <class T>
DEV void layer_norm(T* y, float* stats, const T* x, i64 stride, const float* gain, const float* bias, float eps, int n, int D) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= n) return;
    x += row * stride;
    float sum = 0.0f;
    for (int i = 0; i < D; i++) sum += to_float(x[i]);
    const float mean = sum / D;
    // In two passes: the residual stream has outliers that E[x^2] - E[x]^2 would lose.
    float squares = 0.0f;
    for (int i = 0; i < D; i++) squares += (to_float(x[i]) - mean) * (to_float(x[i]) - mean);
    const float rstd = 1.0f / sqrtf(squares / D + eps);
    for (int i = 0; i < D; i++) y[i64(row) * D + i] = from_float<T>((to_float(x[i]) - mean) * rstd * gain[i] + bias[i]);
    stats[i64(row) * 2] = mean;
    stats[i64(row) * 2 + 1] = rstd;
}

#define ENTRY(T)                                                                                                       \
    KERNEL void layer_norm_forward__1__##T(T* y, float* stats, const T* x, i64 stride, const float* gain,              \
                                           const float* bias, float eps, int n, int D) {                               \
        layer_norm(y, stats, x, stride, gain, bias, eps, n, D);                                                        \
    }                                                                                                                  \
    REGISTER_KERNEL(layer_norm_forward__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
