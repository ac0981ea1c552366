// head / mean_tokens_2_block_per_columns.cu                                                             rung 2 of 2
// out  y (B,D) T = mean over the tokens of x
// in   x (B,T,D) T                                                                     T = f32, f16 or bf16
// idea        a block sums 512 bytes of an image's rows, 16 bytes a lane; its 8 warps share the tokens
// needs       any GPU; D a multiple of 16 bytes, pointers aligned to 16; 256 threads
// bytes/flops 1 read of B*T*D values, 1 write of B*D; B*T*D flops
// predicted   limited by memory: 80 % of the card's bandwidth from B = 32 on
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/head.rs
#include "include/rows.cuh"

template <class T> DEV void mean_tokens(T* y, const T* x, int tokens, int D) {
    SHARED(float[SUM_WARPS][SUMMED<T>], partial);
    const int blocks = ceil_div(D, SUMMED<T>), image = blockIdx.x / blocks, column = blockIdx.x % blocks * SUMMED<T>;
    sum_columns(partial, x + i64(image) * tokens * D, tokens, D, column);
    for (int c = threadIdx.x; c < SUMMED<T> && column + c < D; c += SUM_WARPS * WARP_SIZE) {
        y[i64(image) * D + column + c] = from_float<T>(partial[0][c] / tokens);
    }
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(256) head_mean_tokens__2__##T(T* y, const T* x, int, int tokens, int D) {            \
        mean_tokens(y, x, tokens, D);                                                                                  \
    }                                                                                                                  \
    REGISTER_KERNEL(head_mean_tokens__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
