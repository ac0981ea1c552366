// 16 bytes from an address that is a multiple of 4 only.
#include "include/vec.cuh"

template <bool BUG> DEV void widen(int* y, const int* x) {
    const int t = threadIdx.x;
    const Vec<int> v = load_vec(x + t % 16 * 4 + BUG);  // HERE
    y[t] = v.at[1 - BUG];
}

KERNEL void with_bug(int* y, const int* x) { widen<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { widen<false>(y, x); }
REGISTER_KERNEL(without_bug)
