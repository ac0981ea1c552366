// The result is added to memory that nothing set.
#include "include/types.cuh"

template <bool BUG> DEV void accumulate(int* y, const int* x) {
    const int t = threadIdx.x;
    const int held = BUG ? y[t] : 0;  // HERE
    y[t] = held + x[t];
}

KERNEL void with_bug(int* y, const int* x) { accumulate<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { accumulate<false>(y, x); }
REGISTER_KERNEL(without_bug)
