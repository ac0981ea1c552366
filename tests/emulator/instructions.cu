// Each instruction of the headers that no kernel shows by itself, in the smallest kernel. Blocks of 128 threads.
#include "include/mma.cuh"
#include "include/reduce.cuh"

KERNEL void exchanges(float* y, const float* x) {
    const int t = threadIdx.x;
    y[t] = broadcast(x[t], 5);
    y[128 + t] = warp_max(x[t]);
    y[256 + t] = float_of(ballot(x[t] > 0.0f));
    y[384 + t] = float_of(shuffle_xor(u32(t), 3));
}
REGISTER_KERNEL(exchanges)

KERNEL void sums(float* y, const float* x) {
    SHARED(float[4], scratch);
    const int t = threadIdx.x;
    y[t] = block_sum(x[t], scratch);
    y[128 + t] = block_sum(2.0f * x[t], scratch);
}
REGISTER_KERNEL(sums)

// Two pairs of warps hand values over, each at a barrier of its own.
KERNEL void pairs(float* y, const float* x) {
    SHARED(float[128], tile);
    const int t = threadIdx.x, pair = t / 64;
    tile[t] = x[t];
    named_barrier(1 + pair, 64);
    y[t] = tile[t ^ 32];
}
REGISTER_KERNEL(pairs)

// The first two warps hand values to the others and do not wait for them.
KERNEL void halves(float* y, const float* x) {
    SHARED(float[64], tile);
    const int t = threadIdx.x;
    if (t < 64) {
        tile[t] = x[t];
        named_arrive(1, 128);
    } else {
        named_barrier(1, 128);
        y[t - 64] = tile[t - 64];
    }
}
REGISTER_KERNEL(halves)

KERNEL void counts(u32* y, const float*) {
    if (threadIdx.x == 0) y[0] = 0;
    block_barrier();
    atomic_add(y, threadIdx.x);
}
REGISTER_KERNEL(counts)

// The first warp: y (16,8) = a (16,8) b (8,8), a and b one after the other in x.
KERNEL void tf32_product(float* y, const float* x) {
    if (threadIdx.x >= WARP_SIZE) return;
    const int g = threadIdx.x / 4, p = threadIdx.x % 4;
    const float* b = x + 128;
    const u32 fragment_a[4] = {bits_of(x[g * 8 + p]), bits_of(x[(g + 8) * 8 + p]), bits_of(x[g * 8 + p + 4]),
                               bits_of(x[(g + 8) * 8 + p + 4])};
    const u32 fragment_b[2] = {bits_of(b[p * 8 + g]), bits_of(b[(p + 4) * 8 + g])};
    float d[4] = {};
    multiply_tf32(d, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++) y[(g + i / 2 * 8) * 8 + p * 2 + i % 2] = d[i];
}
REGISTER_KERNEL(tf32_product)

// Every 16-bit pattern to f32 and back, and f32 patterns to 16 bits.
KERNEL void conversions(u16* y, const float* x) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = to_f16(to_float(f16{u16(i)})).bits;
    y[65536 + i] = to_bf16(to_float(bf16{u16(i)})).bits;
    y[2 * 65536 + i] = to_f16(x[i]).bits;
    y[3 * 65536 + i] = to_bf16(x[i]).bits;
}
REGISTER_KERNEL(conversions)
