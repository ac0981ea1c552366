// layer_norm / forward_2_warp_per_row.cu                                                                rung 2 of 2
// out  y (n,D) T, stats (n,2) f32: mean and rstd = 1/sqrt(var + eps)
// in   x rows of D, `stride` values apart, T; gain (D), bias (D) f32                    T = f32, f16 or bf16
// idea        a warp reads its row once, 16 bytes a lane, and keeps it in registers for both passes of the variance
// needs       any GPU; D and stride multiples of 16 bytes, D <= 2048, x and y aligned to 16; block of whole warps
// bytes/flops 1 read + 1 write of n*D values + 8n bytes; about 8*n*D flops
// predicted   limited by memory: at ViT-L/14 (n = 257 B, D = 1024, bf16) 4 KiB a row, 90 % of the card's bandwidth
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/layer_norm.rs
#include "include/reduce.cuh"
#include "include/vec.cuh"

// Values of the row that a lane may hold.
constexpr int LANE_VALUES = 64;

template <class T>
DEV void layer_norm(T* y, float* stats, const T* x, i64 stride, const float* gain, const float* bias, float eps, int n, int D) {
    constexpr int SIZE = Vec<T>::SIZE, RUNS = LANE_VALUES / SIZE;
    const int lane = threadIdx.x % WARP_SIZE;
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP_SIZE;
    if (row >= n) return;
    x += row * stride;

    float value[RUNS][SIZE];
    float sum = 0.0f;
#pragma unroll
    for (int run = 0; run < RUNS; run++) {
        const int at = (run * WARP_SIZE + lane) * SIZE;
        if (at >= D) continue;
        const Vec<T> v = load_vec(x + at);
#pragma unroll
        for (int i = 0; i < SIZE; i++) sum += value[run][i] = to_float(v.at[i]);
    }
    const float mean = warp_sum(sum) / D;
    float squares = 0.0f;
#pragma unroll
    for (int run = 0; run < RUNS; run++) {
        if ((run * WARP_SIZE + lane) * SIZE >= D) continue;
#pragma unroll
        for (int i = 0; i < SIZE; i++) squares += (value[run][i] - mean) * (value[run][i] - mean);
    }
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / D + eps);
#pragma unroll
    for (int run = 0; run < RUNS; run++) {
        const int at = (run * WARP_SIZE + lane) * SIZE;
        if (at >= D) continue;
        Vec<T> v;
#pragma unroll
        for (int i = 0; i < SIZE; i += 4) {
            const Vec<float> g = load_vec(gain + at + i), b = load_vec(bias + at + i);
#pragma unroll
            for (int e = 0; e < 4; e++) v.at[i + e] = from_float<T>((value[run][i + e] - mean) * rstd * g.at[e] + b.at[e]);
        }
        store_vec(y + i64(row) * D + at, v);
    }
    if (lane == 0) {
        stats[i64(row) * 2] = mean;
        stats[i64(row) * 2 + 1] = rstd;
    }
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(256)                                                                                 \
        layer_norm_forward__2__##T(T* y, float* stats, const T* x, i64 stride, const float* gain, const float* bias,   \
                                   float eps, int n, int D) {                                                          \
        layer_norm(y, stats, x, stride, gain, bias, eps, n, D);                                                        \
    }                                                                                                                  \
    REGISTER_KERNEL(layer_norm_forward__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
