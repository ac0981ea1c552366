// patch_embed / positions_2_vector_per_thread.cu                                                        rung 2 of 2
// out  x (B,T,D) T += positions, after token 0 has become cls
// in   cls (D), positions (T,D) f32                                                    T = f32, f16 or bf16
// idea        a thread makes 16 bytes. What is left to do: to give the positions, with cls in their first row, to the
//             product as its residual (row m % T); then this pass over x falls away
// needs       any GPU; D a multiple of 16 bytes, pointers aligned to 16
// bytes/flops 1 read + 1 write of n = B*T*D values, positions from the cache; n flops
// predicted   limited by memory: 90 % of the card's bandwidth
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/patch_embed.rs
#include "include/vec.cuh"

template <class T> DEV void add_positions(T* x, const float* cls, const float* positions, int tokens, int D, i64 n) {
    constexpr int SIZE = Vec<T>::SIZE;
    const i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * SIZE;
    if (at >= n) return;
    const i64 in_image = at % (i64(tokens) * D);
    const bool is_cls = in_image < D;
    Vec<T> v = {};
    if (!is_cls) v = load_vec(x + at);
#pragma unroll
    for (int i = 0; i < SIZE; i += 4) {
        const Vec<float> position = load_vec(positions + in_image + i);
        Vec<float> c = {};
        if (is_cls) c = load_vec(cls + in_image + i);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            v.at[i + e] = from_float<T>((is_cls ? c.at[e] : to_float(v.at[i + e])) + position.at[e]);
        }
    }
    store_vec(x + at, v);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(256)                                                                                 \
        patch_embed_positions__2__##T(T* x, const float* cls, const float* positions, int tokens, int D, i64 n) {      \
        add_positions(x, cls, positions, tokens, D, n);                                                                \
    }                                                                                                                  \
    REGISTER_KERNEL(patch_embed_positions__2__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
