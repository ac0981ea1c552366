// Sums over what comes before: within a warp, and within a block.
#pragma once

#include "include/reduce.cuh"

#ifdef VITSCOPE_EMULATED

// The value of lane `lane - distance`; the lane's own where there is none.
DEV u32 shuffle_up(u32 x, u32 distance) {
    const u32 lane = threadIdx.x % WARP_SIZE;
    return emu::shuffle(ALL_LANES, x, lane < distance ? lane : lane - distance);
}
// How many bits are 1.
DEV u32 count_bits(u32 x) { return __builtin_popcount(x); }

#else

DEV u32 shuffle_up(u32 x, u32 distance) { return __shfl_up_sync(ALL_LANES, x, distance); }
DEV u32 count_bits(u32 x) { return __popc(x); }

#endif

// Sum over this lane and those before it.
DEV u32 warp_scan(u32 x) {
    const u32 lane = threadIdx.x % WARP_SIZE;
#pragma unroll
    for (u32 distance = 1; distance < WARP_SIZE; distance *= 2) {
        const u32 before = shuffle_up(x, distance);
        if (lane >= distance) x += before;
    }
    return x;
}

// Sum over the threads before this one, and over the whole block. `scratch` (one u32 per warp) may be used again after
// the call.
DEV u32 block_prefix(u32 x, u32* scratch, u32& total) {
    const u32 warps = blockDim.x / WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    const u32 scan = warp_scan(x);
    if (threadIdx.x % WARP_SIZE == WARP_SIZE - 1) scratch[warp] = scan;
    block_barrier();
    u32 before = scan - x;
    total = 0;
    for (u32 w = 0; w < warps; w++) {
        if (w < warp) before += scratch[w];
        total += scratch[w];
    }
    block_barrier();
    return before;
}

// Whether any thread of the block says so.
DEV bool block_any(bool vote, u32* scratch) {
    const u32 warps = blockDim.x / WARP_SIZE;
    const u32 votes = ballot(vote);
    if (threadIdx.x % WARP_SIZE == 0) scratch[threadIdx.x / WARP_SIZE] = votes;
    block_barrier();
    u32 any = 0;
    for (u32 w = 0; w < warps; w++) any |= scratch[w];
    block_barrier();
    return any != 0;
}
