// Tiles and products of sm_90a, each in the smallest kernel. Blocks of 128 threads.
#include "include/tma.cuh"
#include "include/wgmma.cuh"

DEV void init(u32 barrier) {
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_init_fence();
    }
    block_barrier();
}

// The tile at (x, y) as it lies in shared memory: `words` words.
KERNEL void load_tile(u32* out, const __grid_constant__ TileMap map, int x, int y, int words) {
    DYNAMIC_SHARED(memory);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier);
    init(full);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full, words * 4);
        tile_load(shared_address(memory), map, full, x, y);
    }
    mbarrier_wait(full, 0);
    for (int i = threadIdx.x; i < words; i += 128) out[i] = reinterpret_cast<u32*>(memory)[i];
}
REGISTER_KERNEL(load_tile)

// The box at (x, y) of matrix z.
KERNEL void load_box(u32* out, const __grid_constant__ TileMap map, int x, int y, int z, int words) {
    DYNAMIC_SHARED(memory);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier);
    init(full);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full, words * 4);
        tile_load(shared_address(memory), map, full, x, y, z);
    }
    mbarrier_wait(full, 0);
    for (int i = threadIdx.x; i < words; i += 128) out[i] = reinterpret_cast<u32*>(memory)[i];
}
REGISTER_KERNEL(load_box)

// From one tensor to another, and what was stored is seen after the wait for it.
KERNEL void move_tile(u32* out, const __grid_constant__ TileMap from, const __grid_constant__ TileMap to, int bytes, int x,
                      int y, const u32* stored) {
    DYNAMIC_SHARED(memory);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier), tile = shared_address(memory);
    init(full);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full, bytes);
        tile_load(tile, from, full, 0, 0);
        mbarrier_wait(full, 0);
        tile_store(to, tile, x, y);
        tile_store_commit();
        tile_store_wait<0>();
        out[0] = stored[0];
    }
}
REGISTER_KERNEL(move_tile)

// --- wgmma: y (64,N) = a (64,D) b (D,N), from tiles -----------------------------------------------------------------------

// How an operand of `rows` by D lies in shared memory, in lines of SPAN bytes; 16 are those of no swizzle.
template <int SPAN> struct Layout {
    static constexpr int HALVES = SPAN / 2, D = HALVES < 16 ? 16 : HALVES;
    static constexpr Swizzle SWIZZLE = SPAN == 128  ? Swizzle::BYTES_128
                                       : SPAN == 64 ? Swizzle::BYTES_64
                                       : SPAN == 32 ? Swizzle::BYTES_32
                                                    : Swizzle::NONE;
};

// One thread: the operand's tiles, lines of k one beside the other, or lines of rows.
template <int SPAN, bool IS_MN> DEV void bring(u32 to, const TileMap& map, u32 full, int rows) {
    using L = Layout<SPAN>;
    if constexpr (IS_MN) {
        for (int row = 0; row < rows; row += L::HALVES) tile_load(to + row * L::D * 2, map, full, row, 0);
    } else {
        for (int k = 0; k < L::D; k += L::HALVES) tile_load(to + k * rows * 2, map, full, k, 0);
    }
}

// The operand from k on.
template <int SPAN, bool IS_MN> DEV u64 describe(u32 at, int rows, int k) {
    using L = Layout<SPAN>;
    if constexpr (SPAN == 16) return IS_MN ? wgmma_operand(at, 128, L::D * 16, L::SWIZZLE) : wgmma_operand(at, rows * 16, 128, L::SWIZZLE);
    else if constexpr (IS_MN) return wgmma_operand(at + k * SPAN, L::D * SPAN, 8 * SPAN, L::SWIZZLE);
    else return wgmma_operand(at + k * 2, 0, 8 * SPAN, L::SWIZZLE);
}

template <int N> DEV void write(float* y, const float (&sum)[N / 2]) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    for (int i = 0; i < N / 2; i++) y[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + column + i % 2] = sum[i];
}

template <class T, int N, int SPAN, bool A_IS_MN, bool B_IS_MN, bool FROM_REGISTERS>
DEV void product(float* y, const TileMap& a_map, const TileMap& b_map, const u32* a_words) {
    using L = Layout<SPAN>;
    DYNAMIC_SHARED(memory);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier), a = shared_address(memory), b = a + 64 * 128;
    init(full);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full, ((FROM_REGISTERS ? 0 : 64) + N) * L::D * 2);
        if constexpr (!FROM_REGISTERS) bring<SPAN, A_IS_MN>(a, a_map, full, 64);
        bring<SPAN, B_IS_MN>(b, b_map, full, N);
    }
    mbarrier_wait(full, 0);
    float sum[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) sum[i] = 1.0f;
#pragma unroll
    for (int k = 0; k < L::D; k += 16) {
        const u64 b_operand = describe<SPAN, B_IS_MN>(b, N, k);
        if constexpr (FROM_REGISTERS) {
            const int g = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, p = threadIdx.x % 4 + k / 2;
            const u32 fragment[4] = {a_words[g * L::D / 2 + p], a_words[(g + 8) * L::D / 2 + p], a_words[g * L::D / 2 + p + 4],
                                     a_words[(g + 8) * L::D / 2 + p + 4]};
            wgmma_fence();
            wgmma<B_IS_MN>(T{}, sum, fragment, b_operand, k > 0);
        } else {
            wgmma_fence();
            wgmma<A_IS_MN, B_IS_MN>(T{}, sum, describe<SPAN, A_IS_MN>(a, 64, k), b_operand, k > 0);
        }
        wgmma_commit();
    }
    wgmma_wait<0>();
    write<N>(y, sum);
}

#define PRODUCT(name, T, N, SPAN, A_IS_MN, B_IS_MN, FROM_REGISTERS)                                                    \
    KERNEL void __launch_bounds__(128, 1) name(float* y, const __grid_constant__ TileMap a,                            \
                                               const __grid_constant__ TileMap b, const u32* words) {                 \
        product<T, N, SPAN, A_IS_MN, B_IS_MN, FROM_REGISTERS>(y, a, b, words);                                         \
    }                                                                                                                  \
    REGISTER_KERNEL(name)
#define MAJORS(T, N, SPAN)                                                                                             \
    PRODUCT(product_##T##_##N##_##SPAN##_kk, T, N, SPAN, false, false, false)                                          \
    PRODUCT(product_##T##_##N##_##SPAN##_km, T, N, SPAN, false, true, false)                                           \
    PRODUCT(product_##T##_##N##_##SPAN##_mk, T, N, SPAN, true, false, false)                                           \
    PRODUCT(product_##T##_##N##_##SPAN##_mm, T, N, SPAN, true, true, false)                                            \
    PRODUCT(product_##T##_##N##_##SPAN##_rk, T, N, SPAN, false, false, true)                                           \
    PRODUCT(product_##T##_##N##_##SPAN##_rm, T, N, SPAN, false, true, true)

#ifdef HAS_SM_90A
MAJORS(f16, 64, 16)
MAJORS(f16, 64, 32)
MAJORS(bf16, 64, 64)
MAJORS(f16, 64, 128)
MAJORS(f16, 128, 128)
MAJORS(bf16, 256, 128)
#endif
