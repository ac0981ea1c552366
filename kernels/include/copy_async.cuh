// Copies from global to shared memory that go on while the thread computes.
#pragma once

#include "include/barrier.cuh"

#ifdef VITSCOPE_EMULATED

// 16 bytes, of which the first `bytes` are read and the rest are zero. Both addresses are multiples of 16.
DEV void copy_async_16(u32 to, const void* from, u32 bytes = 16) { emu::copy_async(to, from, bytes); }
// The copies since the last commit are one group.
DEV void copy_async_commit() { emu::copy_commit(); }
// Waits until at most GROUPS_LEFT of this thread's groups are in flight. Other threads' copies need a barrier besides.
template <int GROUPS_LEFT> DEV void copy_async_wait() { emu::copy_wait(GROUPS_LEFT); }

// A run of bytes by the copy engine (sm_90): addresses and size are multiples of 16. The mbarrier counts the bytes.
DEV void copy_bulk(u32 to, const void* from, u32 bytes, u32 mbarrier) { emu::bulk_copy(to, from, bytes, mbarrier); }

#else

DEV void copy_async_16(u32 to, const void* from, u32 bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
DEV void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int GROUPS_LEFT> DEV void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
}

DEV void copy_bulk(u32 to, const void* from, u32 bytes, u32 mbarrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(mbarrier)
                 : "memory");
}

#endif
