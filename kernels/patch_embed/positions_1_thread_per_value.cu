// patch_embed / positions_1_thread_per_value.cu                                                         rung 1 of 2
// out  x (B,T,D) T += positions, after token 0 has become cls
// in   cls (D), positions (T,D) f32                                                    T = f32, f16 or bf16
// idea        the obvious loop: one thread makes one value
// needs       any GPU; any sizes
// bytes/flops 1 read + 1 write of n = B*T*D values, positions from the cache; n flops
// predicted   half of rung 2: whole sectors, but one value a thread
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/patch_embed.rs
#include "include/types.cuh"

template <class T> DEV void add_positions(T* x, const float* cls, const float* positions, int tokens, int D, i64 n) {
    const i64 at = i64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const i64 in_image = at % (i64(tokens) * D);
    x[at] = from_float<T>((in_image < D ? cls[in_image] : to_float(x[at])) + positions[in_image]);
}

#define ENTRY(T)                                                                                                       \
    KERNEL void patch_embed_positions__1__##T(T* x, const float* cls, const float* positions, int tokens, int D,       \
                                              i64 n) {                                                                 \
        add_positions(x, cls, positions, tokens, D, n);                                                                \
    }                                                                                                                  \
    REGISTER_KERNEL(patch_embed_positions__1__##T)

ENTRY(f32)
ENTRY(f16)
ENTRY(bf16)
