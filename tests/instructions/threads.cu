// Exchanges between threads: shuffles, votes, barriers, atomics, shared memory. Blocks of 128 threads.
#include "include/scan.cuh"

// covers: broadcast(float, u32), shuffle_xor(float, u32), shuffle_xor(u32, u32), shuffle_up(u32, u32), ballot(bool), count_bits(u32)
KERNEL void exchanges(u32* y, const u32* x) {
    const int t = threadIdx.x;
    const u32 bits = x[t];
    for (u32 i = 0; i < 32; i++) {
        u32* row = y + i * 6 * 128 + t;
        row[0] = bits_of(broadcast(float_of(bits), i));
        row[128] = bits_of(shuffle_xor(float_of(bits), i));
        row[256] = shuffle_xor(bits, i);
        row[384] = shuffle_up(bits, i);
        row[512] = ballot(bits >> i & 1);
        row[640] = count_bits(bits >> i);
    }
}
REGISTER_KERNEL(exchanges)

// covers: warp_sum(float), warp_sum(u32), warp_max(float), warp_scan(u32), block_sum(float, float*), block_max(float, float*)
// covers: block_prefix(u32, u32*, u32&), block_any(bool, u32*), SHARED
KERNEL void reductions(u32* y, const u32* x) {
    SHARED(float[4], floats);
    SHARED(u32[4], words);
    const int t = threadIdx.x;
    const float f = int(x[t]);
    y[t] = bits_of(warp_sum(f));
    y[128 + t] = warp_sum(x[t]);
    y[256 + t] = bits_of(warp_max(f));
    y[384 + t] = warp_scan(x[t]);
    y[512 + t] = bits_of(block_sum(f, floats));
    y[640 + t] = bits_of(block_max(f, floats));
    u32 total;
    y[768 + t] = block_prefix(x[t], words, total);
    y[896 + t] = total;
    y[1024 + t] = block_any(f > 100.0f, words);
    y[1152 + t] = block_any(t == 77, words);
}
REGISTER_KERNEL(reductions)

// covers: block_barrier(), warp_barrier(u32)
KERNEL void handovers(u32* y, const u32* x) {
    SHARED(u32[4][128], tile);
    const int t = threadIdx.x;
    tile[0][t] = x[t];
    block_barrier();
    y[t] = tile[0][127 - t];
    tile[1][t] = x[t];
    warp_barrier();
    y[128 + t] = tile[1][t ^ 31];
    // The odd lanes and the even ones, each for themselves.
    if (t % 2) {
        tile[2][t] = x[t];
        warp_barrier(0xaaaaaaaa);
        y[256 + t] = tile[2][t ^ 6];
    } else {
        tile[2][t] = x[t] + 1;
        warp_barrier(0x55555555);
        y[256 + t] = tile[2][t ^ 10];
    }
    // Ten lanes of each warp, and nobody else.
    if (t % 32 < 10) {
        tile[3][t] = x[t];
        warp_barrier(0x3ff);
        y[384 + t] = tile[3][t / 32 * 32 + 9 - t % 32];
    } else {
        y[384 + t] = 0;
    }
}
REGISTER_KERNEL(handovers)

// Two pairs of warps hand values over, each at a barrier of its own; then the first two warps hand values to the others and
// do not wait for them. The last barriers have the greatest number and are used again and again.
// covers: named_barrier(u32, u32), named_arrive(u32, u32)
KERNEL void named_barriers(u32* y, const u32* x) {
    SHARED(u32[128], tile);
    SHARED(u32[64], half);
    const int t = threadIdx.x, pair = t / 64;
    tile[t] = x[t];
    named_barrier(1 + pair, 64);
    y[t] = tile[t ^ 32];
    if (t < 64) {
        half[t] = x[t] * 3;
        named_arrive(3, 128);
        y[128 + t] = 0;
    } else {
        named_barrier(3, 128);
        y[128 + t] = half[t - 64];
    }
    u32 value = x[t];
    for (int i = 0; i < 5; i++) {
        named_barrier(15, 128);
        tile[t] = value;
        named_barrier(15, 128);
        value = tile[(t + 1) % 128] + 1;
    }
    y[256 + t] = value;
}
REGISTER_KERNEL(named_barriers)

// Sums of whole numbers in global and shared memory. What an addition returns is a ticket: each is given once.
// `sums` (4) is zero before.
// covers: atomic_add(float*, float), atomic_add(u32*, u32)
KERNEL void atomics(u32* tickets, u32* sums) {
    SHARED(u32, word);
    SHARED(float, value);
    const int t = threadIdx.x;
    if (t == 0) {
        word = 0;
        value = 0.0f;
    }
    block_barrier();
    tickets[atomic_add(&sums[0], 1)] = 1;
    tickets[128 + int(atomic_add(reinterpret_cast<float*>(&sums[1]), 1.0f))] = 2;
    tickets[256 + atomic_add(&word, 1)] = 3;
    tickets[384 + int(atomic_add(&value, 1.0f))] = 4;
    block_barrier();
    atomic_add(&word, t);
    atomic_add(&value, float(t));
    block_barrier();
    if (t == 0) {
        sums[2] = word;
        sums[3] = bits_of(value);
    }
}
REGISTER_KERNEL(atomics)

// Dynamic memory lies at a multiple of 1024 bytes, arrays lie apart, and an address is an offset to pointers.
// covers: DYNAMIC_SHARED, SHARED, shared_address(const void*), bits_of(float), float_of(u32)
KERNEL void shared_arrays(u32* y, const u32* x) {
    DYNAMIC_SHARED(memory);
    SHARED(u8, single);
    SHARED(u64[16], wide);
    SHARED(float[128], narrow);
    u32* dynamic = reinterpret_cast<u32*>(memory);
    const int t = threadIdx.x;
    dynamic[t] = x[t];
    narrow[t] = float_of(x[t] + 1);
    if (t < 16) wide[t] = u64(x[t]) << 32 | t;
    if (t == 0) single = 200;
    block_barrier();
    y[t] = dynamic[127 - t];
    y[128 + t] = bits_of(narrow[127 - t]);
    y[256 + t] = u32(wide[t % 16] >> 32);
    y[384 + t] = shared_address(&narrow[t]) - shared_address(&narrow[0]);
    y[512 + t] = shared_address(memory + t) % 1024;
    y[640 + t] = shared_address(&wide[t % 16]) % 8 + single;
}
REGISTER_KERNEL(shared_arrays)
