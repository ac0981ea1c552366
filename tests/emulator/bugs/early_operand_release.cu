// The consumers tell the producer that the operands are free when they have only asked for the product.
#include "include/copy_async.cuh"
#include "include/wgmma.cuh"

template <bool BUG> DEV void multiply(int* y, const int* x) {
    SHARED(u16[2048], operands);
    SHARED(u64[2], barriers);
    const u32 a = shared_address(operands), b = a + 2048;
    const u32 full = shared_address(&barriers[0]), empty = shared_address(&barriers[1]);
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(empty, 4);
        mbarrier_init_fence();
    }
    block_barrier();
    if (t >= 128) {
        if (t > 128) return;
        for (u32 step = 0; step < 3; step++) {
            mbarrier_wait(empty, step % 2 ^ 1);
            mbarrier_arrive_expect(full, 4096);
            copy_bulk(a, x, 4096, full);  // HERE
        }
    } else {
        float sum[32] = {};
        for (u32 step = 0; step < 3; step++) {
            mbarrier_wait(full, step % 2);
            wgmma_fence();
            wgmma<false, false>(f16{}, sum, wgmma_operand(a, 128, 256, Swizzle::NONE), wgmma_operand(b, 128, 256, Swizzle::NONE));
            wgmma_commit();
            if (BUG && t % 32 == 0) mbarrier_arrive(empty);
            wgmma_wait<0>();
            if (!BUG && t % 32 == 0) mbarrier_arrive(empty);
        }
        y[t] = sum[0];
    }
}

KERNEL void with_bug(int* y, const int* x) { multiply<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { multiply<false>(y, x); }
REGISTER_KERNEL(without_bug)
