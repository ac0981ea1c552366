// Numbers: conversions, 16-byte accesses, products without fusion, and the processor's mathematics. Blocks of 128 threads.
#include "include/attention.cuh"
#include "include/exact.cuh"

// covers: DEV, KERNEL, REGISTER_KERNEL
DEV int index() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Every 16-bit pattern to f32, and back.
// covers: to_float(f16), to_float(bf16), to_float(float), to_f16(float), to_bf16(float)
KERNEL void widened(u32* y, u16* back) {
    const int i = index();
    const float h = to_float(f16{u16(i)}), b = to_float(bf16{u16(i)});
    y[i] = bits_of(to_float(h));
    y[65536 + i] = bits_of(b);
    back[i] = to_f16(h).bits;
    back[65536 + i] = to_bf16(b).bits;
}
REGISTER_KERNEL(widened)

// f32 to 16 bits, alone and in pairs with the next value.
// covers: from_float(float), pack(float, float)
KERNEL void narrowed(u16* y, u32* pairs, const float* x, int n) {
    const int i = index();
    y[i] = from_float<f16>(x[i]).bits;
    y[n + i] = from_float<bf16>(x[i]).bits;
    pairs[i] = attention::pack<f16>(x[i], from_float<float>(x[(i + 1) % n]));
    pairs[n + i] = attention::pack<bf16>(x[i], x[(i + 1) % n]);
}
REGISTER_KERNEL(narrowed)

// Each 16 bytes turned around by values of T, and pairs of floats.
template <class T> DEV void turn(T* y, const T* x) {
    constexpr int SIZE = Vec<T>::SIZE;
    const Vec<T> from = load_vec(x + threadIdx.x * SIZE);
    Vec<T> to;
#pragma unroll
    for (int i = 0; i < SIZE; i++) to.at[i] = from.at[SIZE - 1 - i];
    store_vec(y + (127 - threadIdx.x) * SIZE, to);
}

// covers: load_vec(const T*), store_vec(T*, const Vec<T>&), store_pair(float*, float, float)
KERNEL void vectors(u32* y, const u32* x) {
    turn(reinterpret_cast<float*>(y), reinterpret_cast<const float*>(x));
    turn(reinterpret_cast<f16*>(y + 512), reinterpret_cast<const f16*>(x));
    turn(reinterpret_cast<bf16*>(y + 1024), reinterpret_cast<const bf16*>(x));
    const int t = threadIdx.x;
    store_pair(reinterpret_cast<float*>(y + 1536) + (127 - t) * 2, float_of(x[t]), float_of(x[t + 128]));
}
REGISTER_KERNEL(vectors)

// A product, and a sum that a compiler would fuse with it.
// covers: product(float, float), product(double, double), ceil_div(int, int)
KERNEL void unfused(u32* y, u64* wide, const float* a, const float* b, const float* c) {
    const int i = index();
    y[i] = bits_of(product(a[i], b[i]) + c[i]);
    const double sum = product(double(a[i]) / 3.0, double(b[i]) / 7.0) + c[i];
    wide[i] = reinterpret_cast<const u64&>(sum);
    y[1024 + i] = ceil_div(i, 7);
}
REGISTER_KERNEL(unfused)

// What IEEE 754 prescribes to the last bit.
// covers: sqrtf, fmaf, roundf, fabsf, fmaxf, fminf
KERNEL void rounded(u32* y, const float* a, const float* b, const float* c, int n) {
    const int i = index();
    y[i] = bits_of(a[i] / b[i]);
    y[n + i] = bits_of(sqrtf(a[i]));
    y[2 * n + i] = bits_of(fmaf(a[i], b[i], c[i]));
    y[3 * n + i] = bits_of(roundf(c[i]));
    y[4 * n + i] = bits_of(fabsf(a[i]));
    y[5 * n + i] = bits_of(fmaxf(a[i], b[i]));
    y[6 * n + i] = bits_of(fminf(a[i], b[i]));
}
REGISTER_KERNEL(rounded)

// The same in double, and what of it is left in float.
// covers: fmax, fmin
KERNEL void rounded_double(u64* y, const double* a, const double* b, int n) {
    const int i = index();
    const double values[] = {a[i] / b[i], fmax(a[i], b[i]), fmin(a[i], b[i]), float(a[i])};
#pragma unroll
    for (int row = 0; row < 4; row++) y[row * n + i] = reinterpret_cast<const u64&>(values[row]);
}
REGISTER_KERNEL(rounded_double)

// What is near, and not the same everywhere. Row j of `x` is function j's.
// covers: expf, logf, tanhf, erff, rsqrtf(float), power_of_2(float)
KERNEL void approximated(float* y, const float* x, int n) {
    const int i = index();
    y[i] = expf(x[i]);
    y[n + i] = logf(x[n + i]);
    y[2 * n + i] = tanhf(x[2 * n + i]);
    y[3 * n + i] = erff(x[3 * n + i]);
    y[4 * n + i] = rsqrtf(x[4 * n + i]);
    y[5 * n + i] = attention::power_of_2(x[5 * n + i]);
}
REGISTER_KERNEL(approximated)
