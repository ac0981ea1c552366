// A chunk that its own thread copies is read while the copy may still be on its way.
#include "include/copy_async.cuh"

template <bool BUG> DEV void copy_through(int* y, const int* x) {
    SHARED(int[128][4], tile);
    const int t = threadIdx.x;
    copy_async_16(shared_address(tile[t]), x + t / 32 * 4);
    copy_async_commit();
    if constexpr (!BUG) copy_async_wait<0>();
    y[t] = tile[t][0];  // HERE
}

KERNEL void with_bug(int* y, const int* x) { copy_through<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { copy_through<false>(y, x); }
REGISTER_KERNEL(without_bug)
