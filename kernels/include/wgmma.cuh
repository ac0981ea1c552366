// Matrix instructions of a warpgroup (sm_90a): D (64,N) += A (64,16) B (16,N), asynchronous, all operands of 128 threads.
//
// Order: wgmma_fence, products, wgmma_commit, wgmma_wait. Until the wait the accumulators must not be touched and the
// operands in shared memory not be overwritten; operands that threads wrote themselves need `async_proxy_fence`.
//
// D, for thread t of the warpgroup with lane l, g = l / 4 and p = l % 4: d[4j], d[4j+1] = (16 (t/32) + g, 8j + 2p..),
// d[4j+2], d[4j+3] = (16 (t/32) + g + 8, 8j + 2p..). A from registers: fragments as in mma.cuh, of the warp's 16 rows.
#pragma once

#include "include/barrier.cuh"

// As operands name it.
enum class Swizzle : u64 { NONE = 0, BYTES_128 = 1, BYTES_64 = 2, BYTES_32 = 3 };

// An operand in shared memory. Distances are in bytes:
//   K-major (its depth is contiguous)       `stride` from 8 rows to the next 8; `leading` from 8 of k to the next 8
//                                           without swizzle, else it does not count
//   MN-major (its rows are contiguous)      with swizzle, `leading` from one span of rows to the next, `stride` from 8 of k
//                                           to the next 8; without, `stride` from 8 rows to the next, `leading` in k
// 8 lines of a swizzled operand start at a multiple of their size. A step in k adds to `address`, inside of a line too.
DEV u64 wgmma_operand(u32 address, u32 leading, u32 stride, Swizzle swizzle) {
    return u64((address & 0x3ffff) >> 4) | u64(leading >> 4) << 16 | u64(stride >> 4) << 32 | u64(swizzle) << 62;
}

#ifdef VITSCOPE_EMULATED

// Registers that threads wrote are now the products'.
DEV void wgmma_fence() { emu::warpgroup_fence(); }
// The products since the last commit are one group.
DEV void wgmma_commit() { emu::warpgroup_commit(); }
// Waits until at most GROUPS_LEFT of the warpgroup's groups are in flight.
template <int GROUPS_LEFT> DEV void wgmma_wait() { emu::warpgroup_wait(GROUPS_LEFT); }

template <class T> constexpr emu::Half HALF = is_same<T, f16> ? emu::Half::f16 : emu::Half::bf16;

// Both operands in shared memory; `accumulates` false starts from zero. N is 64, 128 or 256.
template <bool A_IS_MN, bool B_IS_MN, class T, int HALF_N>
DEV void wgmma(T, float (&d)[HALF_N], u64 a, u64 b, bool accumulates = true) {
    emu::warpgroup_multiply(d, {2 * HALF_N, accumulates, A_IS_MN, B_IS_MN, nullptr, a, b}, HALF<T>);
}
// A from registers.
template <bool B_IS_MN, class T, int HALF_N>
DEV void wgmma(T, float (&d)[HALF_N], const u32 (&a)[4], u64 b, bool accumulates = true) {
    emu::warpgroup_multiply(d, {2 * HALF_N, accumulates, false, B_IS_MN, a, 0, b}, HALF<T>);
}

// The warpgroup's limit of registers, a multiple of 8: more for those that multiply, fewer for those that copy. The kernel
// names its block size and one block in __launch_bounds__.
template <int COUNT> DEV void raise_registers() { emu::set_registers(COUNT); }
template <int COUNT> DEV void lower_registers() { emu::set_registers(COUNT); }

#elif defined(HAS_SM_90A)

DEV void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEV void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int GROUPS_LEFT> DEV void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS_LEFT) : "memory");
}

#define REGISTERS_64 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define REGISTERS_128 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define REGISTERS_256 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"

#define D8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define D32(i) D8(i), D8(i + 8), D8(i + 16), D8(i + 24)
#define SUMS_64 D32(0)
#define SUMS_128 D32(0), D32(32)
#define SUMS_256 D32(0), D32(32), D32(64), D32(96)

// The numbers of the operands after the accumulators.
#define FROM_SHARED(n, types, a_at, b_at, scale_at, a_mn_at, b_mn_at)                                                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " scale_at ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32." types " " \
                 REGISTERS_##n ", " a_at ", " b_at ", p, 1, 1, " a_mn_at ", " b_mn_at ";\n}\n"                             \
                 : SUMS_##n                                                                                             \
                 : "l"(a), "l"(b), "r"(int(accumulates)), "n"(int(A_IS_MN)), "n"(int(B_IS_MN)))
#define FROM_REGISTERS(n, types, a_at, b_at, scale_at, b_mn_at)                                                         \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " scale_at ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n "k16.f32." types " " \
                 REGISTERS_##n ", " a_at ", " b_at ", p, 1, 1, " b_mn_at ";\n}\n"                                         \
                 : SUMS_##n                                                                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulates)), "n"(int(B_IS_MN)))
#define SHARED_64(types) FROM_SHARED(64, types, "%32", "%33", "%34", "%35", "%36")
#define SHARED_128(types) FROM_SHARED(128, types, "%64", "%65", "%66", "%67", "%68")
#define SHARED_256(types) FROM_SHARED(256, types, "%128", "%129", "%130", "%131", "%132")
#define REGISTER_64(types) FROM_REGISTERS(64, types, "{%32, %33, %34, %35}", "%36", "%37", "%38")
#define REGISTER_128(types) FROM_REGISTERS(128, types, "{%64, %65, %66, %67}", "%68", "%69", "%70")
#define REGISTER_256(types) FROM_REGISTERS(256, types, "{%128, %129, %130, %131}", "%132", "%133", "%134")
#define EACH_TYPE(product)                                                                                              \
    if constexpr (is_same<T, f16>) product("f16.f16");                                                                 \
    else product("bf16.bf16")

template <bool A_IS_MN, bool B_IS_MN, class T, int HALF_N>
DEV void wgmma(T, float (&d)[HALF_N], u64 a, u64 b, bool accumulates = true) {
    static_assert(HALF_N == 32 || HALF_N == 64 || HALF_N == 128, "N is 64, 128 or 256");
    if constexpr (HALF_N == 32) { EACH_TYPE(SHARED_64); }
    else if constexpr (HALF_N == 64) { EACH_TYPE(SHARED_128); }
    else { EACH_TYPE(SHARED_256); }
}
template <bool B_IS_MN, class T, int HALF_N>
DEV void wgmma(T, float (&d)[HALF_N], const u32 (&a)[4], u64 b, bool accumulates = true) {
    static_assert(HALF_N == 32 || HALF_N == 64 || HALF_N == 128, "N is 64, 128 or 256");
    if constexpr (HALF_N == 32) { EACH_TYPE(REGISTER_64); }
    else if constexpr (HALF_N == 64) { EACH_TYPE(REGISTER_128); }
    else { EACH_TYPE(REGISTER_256); }
}

#undef REGISTERS_64
#undef REGISTERS_128
#undef REGISTERS_256
#undef D8
#undef D32
#undef SUMS_64
#undef SUMS_128
#undef SUMS_256
#undef FROM_SHARED
#undef FROM_REGISTERS
#undef SHARED_64
#undef SHARED_128
#undef SHARED_256
#undef REGISTER_64
#undef REGISTER_128
#undef REGISTER_256
#undef EACH_TYPE

template <int COUNT> DEV void raise_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT> DEV void lower_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }

#endif
