// Registers are given to a product without a fence.
#include "include/wgmma.cuh"

template <bool BUG> DEV void multiply(int* y, const int* x) {
    SHARED(int[1024], operands);
    const u32 a = shared_address(operands), b = a + 2048;
    const int t = threadIdx.x;
    for (int i = t; i < 1024; i += 128) operands[i] = x[i];
    async_proxy_fence();
    block_barrier();
    float sum[32] = {};
    if constexpr (!BUG) wgmma_fence();
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
