// Matrix instructions of a warp (sm_80). Blocks of one warp.
#include "include/barrier.cuh"
#include "include/mma.cuh"
#include "include/vec.cuh"

// Lane l's row is the one that `rows` names: any 16 bytes of the 64 in shared memory.
// covers: load_matrices(u32 (&)[4], u32), load_matrices_transposed(u32 (&)[4], u32)
KERNEL void loads(u32* y, const u32* x, const u32* rows) {
    SHARED(Vec<float>[64], tile);
    const int lane = threadIdx.x;
    for (int i = lane; i < 64; i += 32) store_vec(tile[i].at, load_vec(reinterpret_cast<const float*>(x) + i * 4));
    warp_barrier();
    u32 fragment[4];
    load_matrices(fragment, shared_address(&tile[rows[lane]]));
    for (int i = 0; i < 4; i++) y[lane * 4 + i] = fragment[i];
    load_matrices_transposed(fragment, shared_address(&tile[rows[lane]]));
    for (int i = 0; i < 4; i++) y[128 + lane * 4 + i] = fragment[i];
}
REGISTER_KERNEL(loads)

// d (16,8) += a (16,16) b (16,8): halves side by side in words, b by columns.
template <class T> DEV void product_of_halves(float* d, const u32* a, const u32* b) {
    const int g = threadIdx.x / 4, p = threadIdx.x % 4;
    const u32 fragment_a[4] = {a[g * 8 + p], a[(g + 8) * 8 + p], a[g * 8 + p + 4], a[(g + 8) * 8 + p + 4]};
    const u32 fragment_b[2] = {b[g * 8 + p], b[g * 8 + p + 4]};
    float sum[4];
    for (int i = 0; i < 4; i++) sum[i] = d[(g + i / 2 * 8) * 8 + p * 2 + i % 2];
    multiply(T{}, sum, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + p * 2 + i % 2] = sum[i];
}

// covers: multiply(f16, float (&)[4], const u32 (&)[4], const u32*)
KERNEL void product_f16(float* d, const u32* a, const u32* b) { product_of_halves<f16>(d, a, b); }
REGISTER_KERNEL(product_f16)

// covers: multiply(bf16, float (&)[4], const u32 (&)[4], const u32*)
KERNEL void product_bf16(float* d, const u32* a, const u32* b) { product_of_halves<bf16>(d, a, b); }
REGISTER_KERNEL(product_bf16)

// d (16,8) += a (16,8) b (8,8), b by columns.
// covers: multiply_tf32(float (&)[4], const u32 (&)[4], const u32*)
KERNEL void product_tf32(float* d, const u32* a, const u32* b) {
    const int g = threadIdx.x / 4, p = threadIdx.x % 4;
    const u32 fragment_a[4] = {a[g * 8 + p], a[(g + 8) * 8 + p], a[g * 8 + p + 4], a[(g + 8) * 8 + p + 4]};
    const u32 fragment_b[2] = {b[g * 8 + p], b[g * 8 + p + 4]};
    float sum[4];
    for (int i = 0; i < 4; i++) sum[i] = d[(g + i / 2 * 8) * 8 + p * 2 + i % 2];
    multiply_tf32(sum, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + p * 2 + i % 2] = sum[i];
}
REGISTER_KERNEL(product_tf32)
