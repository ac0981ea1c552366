// Small kernels for the stand-in driver's tests.
#include "include/types.cuh"

KERNEL void add(float* y, const float* x, float value, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + value;
}
REGISTER_KERNEL(add)

// One value too many.
KERNEL void past_the_end(float* y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = 1.0f;  // HERE
}
REGISTER_KERNEL(past_the_end)

// The last value of `n` that lie in dynamic shared memory.
KERNEL void last_of_shared(float* y, int n) {
    DYNAMIC_SHARED(bytes);
    float* values = reinterpret_cast<float*>(bytes);
    if (threadIdx.x != 0) return;
    values[n - 1] = float(n);
    y[0] = values[n - 1];
}
REGISTER_KERNEL(last_of_shared)
