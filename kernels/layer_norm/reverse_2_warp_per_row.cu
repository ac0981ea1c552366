// layer_norm / reverse_2_warp_per_row.cu                                                                rung 2 of 2
// out  dx (g,D) T, added to what it holds when `accumulate`
// in   dy (g,D) T; x rows of D, `stride` values apart, T; stats (n,2), gain (D) f32     T = f32, f16 or bf16
//      gradient row i belongs to forward row i % n
// idea        a warp reads its rows of dy and x once, 16 bytes a lane, and keeps t = dy gain and xhat in registers
// needs       any GPU; D and stride multiples of 16 bytes, D <= 2048, pointers aligned to 16; block of whole warps
// bytes/flops 2 reads + 1 write (2 + 1 more when `accumulate`) of g*D values; about 12*g*D flops
// predicted   limited by memory, 85 % of the card's bandwidth: 128 values a lane in registers leave 2 to 3 blocks an SM
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/layer_norm.rs
#include "include/reduce.cuh"
#include "include/vec.cuh"

// Values of each row that a lane may hold.
constexpr int LANE_VALUES = 64;

template <class T>
DEV void layer_norm_reverse(T* dx, const T* dy, const T* x, i64 stride, const float* stats, const float* gain, int n, int g,
                            int D, int accumulate) {
    constexpr int SIZE = Vec<T>::SIZE, RUNS = LANE_VALUES / SIZE;
    const int lane = threadIdx.x % WARP_SIZE;
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP_SIZE;
    if (row >= g) return;
    const int forward_row = row % n;
    x += forward_row * stride;
    dy += i64(row) * D;
    dx += i64(row) * D;
    const float mean = stats[i64(forward_row) * 2], rstd = stats[i64(forward_row) * 2 + 1];

    // The rows stay in their storage type: half the registers for the 16-bit types.
    Vec<T> row_dy[RUNS], row_x[RUNS];
    float sum_t = 0.0f, sum_tx = 0.0f;
#pragma unroll
    for (int run = 0; run < RUNS; run++) {
        const int at = (run * WARP_SIZE + lane) * SIZE;
        if (at >= D) continue;
        row_dy[run] = load_vec(dy + at);
        row_x[run] = load_vec(x + at);
#pragma unroll
        for (int i = 0; i < SIZE; i += 4) {
            const Vec<float> g4 = load_vec(gain + at + i);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float t = to_float(row_dy[run].at[i + e]) * g4.at[e];
                sum_t += t;
                sum_tx += t * (to_float(row_x[run].at[i + e]) - mean) * rstd;
            }
        }
    }
    const float mean_t = warp_sum(sum_t) / D, mean_tx = warp_sum(sum_tx) / D;
#pragma unroll
    for (int run = 0; run < RUNS; run++) {
        const int at = (run * WARP_SIZE + lane) * SIZE;
        if (at >= D) continue;
        Vec<T> v = {};
        if (accumulate) v = load_vec(dx + at);
#pragma unroll
        for (int i = 0; i < SIZE; i += 4) {
            const Vec<float> g4 = load_vec(gain + at + i);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float t = to_float(row_dy[run].at[i + e]) * g4.at[e];
                const float xhat = (to_float(row_x[run].at[i + e]) - mean) * rstd;
                const float held = accumulate ? to_float(v.at[i + e]) : 0.0f;
                v.at[i + e] = from_float<T>(held + rstd * (t - mean_t - xhat * mean_tx));
            }
        }
        store_vec(dx + at, v);
    }
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(256)                                                                                 \
        layer_norm_reverse__2__##T(T* dx, const T* dy, const T* x, i64 stride, const float* stats, const float* gain,  \
                                   int n, int g, int D, int accumulate) {                                              \
        layer_norm_reverse(dx, dy, x, stride, stats, gain, n, g, D, accumulate);                                       \
    }                                                                                                                  \
    REGISTER_KERNEL(layer_norm_reverse__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
