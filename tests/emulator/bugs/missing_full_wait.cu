// Operands are multiplied before their mbarrier says that they are there.
#include "include/copy_async.cuh"
#include "include/wgmma.cuh"

template <bool BUG> DEV void multiply(int* y, const int* x) {
    SHARED(u16[2048], operands);
    SHARED(u64, full);
    const u32 a = shared_address(operands), b = a + 2048, is_full = shared_address(&full);
    const int t = threadIdx.x;
    if (t == 0) {
        mbarrier_init(is_full, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(is_full, 4096);
        copy_bulk(a, x, 4096, is_full);
    }
    block_barrier();
    float sum[32] = {};
    if (!BUG) mbarrier_wait(is_full, 0);
    wgmma_fence();
    wgmma<false, false>(f16{}, sum, wgmma_operand(a, 128, 256, Swizzle::NONE),  // HERE
                        wgmma_operand(b, 128, 256, Swizzle::NONE));
    wgmma_commit();
    wgmma_wait<0>();
    y[t] = sum[0];
}

KERNEL void with_bug(int* y, const int* x) { multiply<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { multiply<false>(y, x); }
REGISTER_KERNEL(without_bug)
