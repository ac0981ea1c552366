// Products of a warpgroup (sm_90a), in every form of operand. Blocks of 128 threads.
#include "include/tma.cuh"
#include "include/wgmma.cuh"

#ifdef HAS_SM_90A

// How an operand lies in shared memory, in lines of `span` bytes; 16 are those of no swizzle. Its depth D is a line of
// halves, or 16.
struct Layout {
    int span, halves, D;
    Swizzle swizzle;
};
DEV Layout layout(int span) {
    const Swizzle swizzle = span == 128  ? Swizzle::BYTES_128
                            : span == 64 ? Swizzle::BYTES_64
                            : span == 32 ? Swizzle::BYTES_32
                                         : Swizzle::NONE;
    return {span, span / 2, span < 32 ? 16 : span / 2, swizzle};
}

// One thread: the operand's tiles, lines of k one beside the other, or lines of rows.
template <bool IS_MN> DEV void bring(const Layout& l, u32 to, const TileMap& map, u32 full, int rows) {
    if constexpr (IS_MN) {
        for (int row = 0; row < rows; row += l.halves) tile_load(to + row * l.D * 2, map, full, row, 0);
    } else {
        for (int k = 0; k < l.D; k += l.halves) tile_load(to + k * rows * 2, map, full, k, 0);
    }
}

// The operand from k on.
template <bool IS_MN> DEV u64 describe(const Layout& l, u32 at, int rows, int k) {
    if (l.span == 16) {
        return IS_MN ? wgmma_operand(at, 128, l.D * 16, l.swizzle) : wgmma_operand(at, rows * 16, 128, l.swizzle);
    }
    return IS_MN ? wgmma_operand(at + k * l.span, l.D * l.span, 8 * l.span, l.swizzle)
                 : wgmma_operand(at + k * 2, 0, 8 * l.span, l.swizzle);
}

// Calls each(i, place) for every value i of a thread's sums and its place in a matrix of 64 rows.
template <int HALF_N, class Each> DEV void each_sum(Each each) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < HALF_N; i++) each(i, (row + i / 2 % 2 * 8) * 2 * HALF_N + i / 4 * 8 + column + i % 2);
}

// y (64,N) = a (64,D) b (D,N), or y += when `keeps`: the first product then adds to what there is.
template <class T, int N, bool A_IS_MN, bool B_IS_MN, bool FROM_REGISTERS>
DEV void product(float* y, const TileMap& a_map, const TileMap& b_map, const u32* a_words, int span, int keeps) {
    DYNAMIC_SHARED(memory);
    SHARED(u64, barrier);
    const Layout l = layout(span);
    const u32 full = shared_address(&barrier), a = shared_address(memory), b = a + 64 * 128;
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init_fence();
    }
    block_barrier();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full, ((FROM_REGISTERS ? 0 : 64) + N) * l.D * 2);
        if constexpr (!FROM_REGISTERS) bring<A_IS_MN>(l, a, a_map, full, 64);
        bring<B_IS_MN>(l, b, b_map, full, N);
    }
    mbarrier_wait(full, 0);
    float sum[N / 2];
    each_sum<N / 2>([&](int i, int place) { sum[i] = y[place]; });
#pragma unroll 1
    for (int k = 0; k < l.D; k += 16) {
        // All that branches is done before the fence.
        const bool adds = keeps || k > 0;
        const u64 b_operand = describe<B_IS_MN>(l, b, N, k);
        if constexpr (FROM_REGISTERS) {
            const int g = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, p = threadIdx.x % 4 + k / 2;
            const u32 fragment[4] = {a_words[g * l.D / 2 + p], a_words[(g + 8) * l.D / 2 + p], a_words[g * l.D / 2 + p + 4],
                                     a_words[(g + 8) * l.D / 2 + p + 4]};
            wgmma_fence();
            wgmma<B_IS_MN>(T{}, sum, fragment, b_operand, adds);
        } else {
            const u64 a_operand = describe<A_IS_MN>(l, a, 64, k);
            wgmma_fence();
            wgmma<A_IS_MN, B_IS_MN>(T{}, sum, a_operand, b_operand, adds);
        }
        wgmma_commit();
        wgmma_wait<0>();
    }
    each_sum<N / 2>([&](int i, int place) { y[place] = sum[i]; });
}

// A is K-major, MN-major or from registers; B is K-major or MN-major.
// covers: wgmma_operand(u32, u32, u32, Swizzle), wgmma(T, float (&)[HALF_N], u64, u64, bool)
// covers: wgmma(T, float (&)[HALF_N], const u32 (&)[4], u64, bool), wgmma_fence(), wgmma_commit(), wgmma_wait()
#define PRODUCT(name, T, N, A_IS_MN, B_IS_MN, FROM_REGISTERS)                                                          \
    KERNEL void __launch_bounds__(128, 1) name(float* y, const __grid_constant__ TileMap a,                            \
                                               const __grid_constant__ TileMap b, const u32* words, int span, int keeps) { \
        product<T, N, A_IS_MN, B_IS_MN, FROM_REGISTERS>(y, a, b, words, span, keeps);                                  \
    }                                                                                                                  \
    REGISTER_KERNEL(name)
#define MAJORS(T, N)                                                                                                   \
    PRODUCT(product_##T##_##N##_kk, T, N, false, false, false)                                                         \
    PRODUCT(product_##T##_##N##_km, T, N, false, true, false)                                                          \
    PRODUCT(product_##T##_##N##_mk, T, N, true, false, false)                                                          \
    PRODUCT(product_##T##_##N##_mm, T, N, true, true, false)                                                           \
    PRODUCT(product_##T##_##N##_rk, T, N, false, false, true)                                                          \
    PRODUCT(product_##T##_##N##_rm, T, N, false, true, true)

MAJORS(f16, 64)
MAJORS(f16, 128)
MAJORS(f16, 256)
MAJORS(bf16, 64)
MAJORS(bf16, 128)
MAJORS(bf16, 256)

// Operands that threads wrote, in core matrices of 8 x 16 bytes: a (64,32) and two of b (32,64), all K-major without swizzle.
// Two groups in flight, of two products each, added to accumulators of their own in y; the first is done while the second is
// not.
KERNEL void __launch_bounds__(128, 1) groups(float* y, const u32* a_words, const u32* b_words) {
    DYNAMIC_SHARED(operands);
    const u32 a = shared_address(operands), b = a + 4096;
    // Word w of row r is half 2 w: chunk w / 4 of 8 halves. Chunks of k lie 1024 bytes apart, 8 rows 128.
    auto place = [&](int row, int w) { return w / 4 * 1024 + row / 8 * 128 + row % 8 * 16 + w % 4 * 4; };
    for (int i = threadIdx.x; i < 64 * 16; i += 128) {
        const int row = i / 16, w = i % 16;
        *reinterpret_cast<u32*>(operands + place(row, w)) = a_words[i];
        *reinterpret_cast<u32*>(operands + 4096 + place(row, w)) = b_words[i];
        *reinterpret_cast<u32*>(operands + 8192 + place(row, w)) = b_words[1024 + i];
    }
    async_proxy_fence();
    block_barrier();
    float first[32], second[32];
    each_sum<32>([&](int i, int place) {
        first[i] = y[place];
        second[i] = y[64 * 64 + place];
    });
    auto operand = [&](u32 at, int k) { return wgmma_operand(at + k / 8 * 1024, 1024, 128, Swizzle::NONE); };
    wgmma_fence();
    wgmma<false, false>(f16{}, first, operand(a, 0), operand(b, 0));
    wgmma<false, false>(f16{}, first, operand(a, 16), operand(b, 16));
    wgmma_commit();
    wgmma_fence();
    wgmma<false, false>(f16{}, second, operand(a, 0), operand(b + 4096, 0));
    wgmma<false, false>(f16{}, second, operand(a, 16), operand(b + 4096, 16));
    wgmma_commit();
    wgmma_wait<1>();
    each_sum<32>([&](int i, int place) { y[place] = first[i]; });
    wgmma_wait<0>();
    each_sum<32>([&](int i, int place) { y[64 * 64 + place] = second[i]; });
}
REGISTER_KERNEL(groups)

// A warpgroup gives registers away and two others take them: nobody's values change.
// covers: raise_registers(), lower_registers()
KERNEL void __launch_bounds__(384, 1) registers(u32* y, const u32* x) {
    const int t = threadIdx.x;
    const u32 before = x[t];
    if (t < 128) {
        lower_registers<40>();
        y[t] = before + 1;
    } else {
        raise_registers<232>();
        u32 values[16];
#pragma unroll
        for (int i = 0; i < 16; i++) values[i] = x[(t * 7 + i) % 384];
        u32 sum = before;
#pragma unroll
        for (int i = 0; i < 16; i++) sum = sum * 3 + values[i];
        y[t] = sum;
    }
}
REGISTER_KERNEL(registers)

#endif
