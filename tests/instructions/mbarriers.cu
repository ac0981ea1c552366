// mbarriers, and the copies that they count (sm_90a). Blocks of 128 threads.
#include "include/copy_async.cuh"

#ifdef HAS_SM_90A

// One thread makes `rounds` values, one after the other in one place; 96 threads take each of them before the next.
// covers: mbarrier_init(u32, u32), mbarrier_init_fence(), mbarrier_arrive(u32), mbarrier_wait(u32, u32)
KERNEL void phases(u32* y, const u32* x, int rounds) {
    SHARED(u64[2], barriers);
    SHARED(u32, place);
    const u32 full = shared_address(barriers), empty = full + 8;
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(empty, 96);
        mbarrier_init_fence();
    }
    block_barrier();
    if (t < 32) {
        if (t == 0) {
            for (int i = 0; i < rounds; i++) {
                // The phase before the first counts as ended.
                mbarrier_wait(empty, i % 2 ^ 1);
                place = x[i];
                mbarrier_arrive(full);
            }
        }
    } else {
        for (int i = 0; i < rounds; i++) {
            mbarrier_wait(full, i % 2);
            y[i * 96 + t - 32] = place + t;
            mbarrier_arrive(empty);
        }
    }
}
REGISTER_KERNEL(phases)

// Runs of 16, 32, .. bytes, one after the other, brought by two threads; the mbarrier counts two arrivals and all bytes.
// covers: copy_bulk(u32, const void*, u32, u32), mbarrier_arrive_expect(u32, u32)
KERNEL void runs(u32* y, const u32* x, int count) {
    DYNAMIC_SHARED(memory);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier), to = shared_address(memory);
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(full, 2);
        mbarrier_init_fence();
    }
    block_barrier();
    if (t % 64 == 0) {
        const int first = t / 64;
        u32 bytes = 0;
        for (int i = first; i < count; i += 2) bytes += (i + 1) * 16;
        mbarrier_arrive_expect(full, bytes);
        // Run i starts after i (i + 1) / 2 chunks.
        for (int i = first; i < count; i += 2) {
            const int start = i * (i + 1) / 2 * 16;
            copy_bulk(to + start, x + start / 4, (i + 1) * 16, full);
        }
    }
    mbarrier_wait(full, 0);
    const int words = count * (count + 1) / 2 * 4;
    for (int i = t; i < words; i += 128) y[i] = reinterpret_cast<u32*>(memory)[i];
}
REGISTER_KERNEL(runs)

#endif
