// layer_norm / reverse_1_thread_per_row.cu                                                              rung 1 of 2
// out  dx (g,D) T, added to what it holds when `accumulate`
// in   dy (g,D) T; x rows of D, `stride` values apart, T; stats (n,2), gain (D) f32     T = f32, f16 or bf16
//      gradient row i belongs to forward row i % n
// idea        the obvious loop. With xhat = (x - mean) rstd and t = dy gain: dx = rstd (t - mean(t) - xhat mean(t xhat))
// needs       any GPU; any D, n, g
// bytes/flops 2 reads of dy and of x, 1 write of g*D values; about 12*g*D flops
// predicted   as forward rung 1: a sector per value
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/layer_norm.rs
#include "include/types.cuh"

template <class T>
DEV void layer_norm_reverse(T* dx, const T* dy, const T* x, i64 stride, const float* stats, const float* gain, int n, int g,
                            int D, int accumulate) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= g) return;
    const int forward_row = row % n;
    x += forward_row * stride;
    dy += i64(row) * D;
    dx += i64(row) * D;
    const float mean = stats[i64(forward_row) * 2], rstd = stats[i64(forward_row) * 2 + 1];
    float sum_t = 0.0f, sum_tx = 0.0f;
    for (int i = 0; i < D; i++) {
        const float t = to_float(dy[i]) * gain[i];
        sum_t += t;
        sum_tx += t * (to_float(x[i]) - mean) * rstd;
    }
    const float mean_t = sum_t / D, mean_tx = sum_tx / D;
    for (int i = 0; i < D; i++) {
        const float xhat = (to_float(x[i]) - mean) * rstd;
        const float v = rstd * (to_float(dy[i]) * gain[i] - mean_t - xhat * mean_tx);
        dx[i] = from_float<T>(accumulate ? to_float(dx[i]) + v : v);
    }
}

#define ENTRY(T)                                                                                                       \
    KERNEL void layer_norm_reverse__1__##T(T* dx, const T* dy, const T* x, i64 stride, const float* stats,             \
                                           const float* gain, int n, int g, int D, int accumulate) {                   \
        layer_norm_reverse(dx, dy, x, stride, stats, gain, n, g, D, accumulate);                                       \
    }                                                                                                                  \
    REGISTER_KERNEL(layer_norm_reverse__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
