// Half of the warp takes part in a shuffle that names all of it.
#include "include/reduce.cuh"

template <bool BUG> DEV void halves(int* y, const int* x) {
    const int t = threadIdx.x;
    float sum = x[t];
    if (!BUG || t % 32 < 16) {
        sum += shuffle_xor(sum, 8);  // HERE
    }
    y[t] = int(sum);
}

KERNEL void with_bug(int* y, const int* x) { halves<true>(y, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int* y, const int* x) { halves<false>(y, x); }
REGISTER_KERNEL(without_bug)
