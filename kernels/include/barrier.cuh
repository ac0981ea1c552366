// Barriers: block, named, warp, and mbarriers in shared memory.
#pragma once

#include "include/types.cuh"

#ifdef VITSCOPE_EMULATED

// All living threads of the block.
DEV void block_barrier() { emu::block_barrier(); }
// `threads` threads of the block (whole warps) at barrier `id`, 1 to 15.
DEV void named_barrier(u32 id, u32 threads) { emu::named_barrier(id, threads); }
// Counts for `threads` as a thread at the barrier, and does not wait.
DEV void named_arrive(u32 id, u32 threads) { emu::named_arrive(id, threads); }
DEV void warp_barrier(u32 mask = 0xffffffff) { emu::warp_barrier(mask); }

DEV void mbarrier_init(u32 barrier, u32 arrivals) { emu::mbarrier_init(barrier, arrivals); }
// Makes initialised mbarriers known to the copy engine.
DEV void mbarrier_init_fence() { emu::mbarrier_init_fence(); }
DEV void mbarrier_arrive(u32 barrier) { emu::mbarrier_arrive(barrier, 0); }
// One arrival, and so many bytes that copies will bring before the phase can end.
DEV void mbarrier_arrive_expect(u32 barrier, u32 bytes) { emu::mbarrier_arrive(barrier, bytes); }
// Waits until the phase of this parity has ended.
DEV void mbarrier_wait(u32 barrier, u32 parity) { emu::mbarrier_wait(barrier, parity); }

// The copy engine and the tensor cores will see what this thread wrote (sm_90). Before the barrier, in each writing thread.
DEV void async_proxy_fence() { emu::async_proxy_fence(); }

#else

DEV void block_barrier() { __syncthreads(); }
DEV void named_barrier(u32 id, u32 threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEV void named_arrive(u32 id, u32 threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEV void warp_barrier(u32 mask = 0xffffffff) { __syncwarp(mask); }

// mbarriers exist from sm_80; those that count bytes, and try_wait, from sm_90.
DEV void mbarrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
DEV void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEV void mbarrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
DEV void mbarrier_arrive_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEV void mbarrier_wait(u32 barrier, u32 parity) {
    u32 is_over;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
                     : "=r"(is_over)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!is_over);
}

DEV void async_proxy_fence() { asm volatile("fence.proxy.async;" ::: "memory"); }

#endif
