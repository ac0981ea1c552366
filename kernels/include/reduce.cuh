// Exchanges between the lanes of a warp, and sums and maxima built from them.
#pragma once

#include "include/barrier.cuh"

constexpr u32 ALL_LANES = 0xffffffff;
constexpr int WARP_SIZE = 32;

#ifdef VITSCOPE_EMULATED

// The value of lane `lane ^ distance`.
DEV float shuffle_xor(float x, u32 distance) {
    return float_of(emu::shuffle(ALL_LANES, bits_of(x), threadIdx.x % WARP_SIZE ^ distance));
}
DEV u32 shuffle_xor(u32 x, u32 distance) { return emu::shuffle(ALL_LANES, x, threadIdx.x % WARP_SIZE ^ distance); }
// The value of lane `lane`.
DEV float broadcast(float x, u32 lane) { return float_of(emu::shuffle(ALL_LANES, bits_of(x), lane)); }
// Bit l is lane l's vote.
DEV u32 ballot(bool vote) { return emu::ballot(ALL_LANES, vote); }

#else

DEV float shuffle_xor(float x, u32 distance) { return __shfl_xor_sync(ALL_LANES, x, distance); }
DEV u32 shuffle_xor(u32 x, u32 distance) { return __shfl_xor_sync(ALL_LANES, x, distance); }
DEV float broadcast(float x, u32 lane) { return __shfl_sync(ALL_LANES, x, lane); }
DEV u32 ballot(bool vote) { return __ballot_sync(ALL_LANES, vote); }

#endif

// Sum over the warp, the same bits in every lane.
DEV float warp_sum(float x) {
#pragma unroll
    for (u32 distance = WARP_SIZE / 2; distance > 0; distance /= 2) x += shuffle_xor(x, distance);
    return x;
}

DEV u32 warp_sum(u32 x) {
#pragma unroll
    for (u32 distance = WARP_SIZE / 2; distance > 0; distance /= 2) x += shuffle_xor(x, distance);
    return x;
}

DEV float warp_max(float x) {
#pragma unroll
    for (u32 distance = WARP_SIZE / 2; distance > 0; distance /= 2) x = fmaxf(x, shuffle_xor(x, distance));
    return x;
}

// Sum over the block, in every thread. `scratch` (one float per warp) may be used again after the call.
DEV float block_sum(float x, float* scratch) {
    const int warps = blockDim.x / WARP_SIZE;
    x = warp_sum(x);
    if (threadIdx.x % WARP_SIZE == 0) scratch[threadIdx.x / WARP_SIZE] = x;
    block_barrier();
    float sum = 0.0f;
    for (int w = 0; w < warps; w++) sum += scratch[w];
    block_barrier();
    return sum;
}

// Maximum over the block, in every thread; `scratch` as for the sum. A NaN does not count.
DEV float block_max(float x, float* scratch) {
    const int warps = blockDim.x / WARP_SIZE;
    x = warp_max(x);
    if (threadIdx.x % WARP_SIZE == 0) scratch[threadIdx.x / WARP_SIZE] = x;
    block_barrier();
    float most = scratch[0];
    for (int w = 1; w < warps; w++) most = fmaxf(most, scratch[w]);
    block_barrier();
    return most;
}
