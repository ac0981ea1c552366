// Names every kernel uses: integer and 16-bit float types, conversions, how a kernel and its shared memory are declared.
// Compiled by NVRTC for a GPU, and by the host C++ compiler for the emulator when VITSCOPE_EMULATED is defined.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;
typedef float f32;

// Defined where sm_90a's instructions are. A kernel that needs them is guarded as a whole: other targets see no entry.
#if defined(VITSCOPE_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_SM_90A
#endif

// Storage only: arithmetic is f32.
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

#ifdef VITSCOPE_EMULATED

#include "emulator/device.h"

#define DEV static inline __attribute__((always_inline))
#define KERNEL extern "C" __attribute__((visibility("default")))
// The emulator finds a kernel by this object; a GPU's module has its own table.
#define REGISTER_KERNEL(name)                                                                                          \
    extern "C" __attribute__((visibility("default"))) const emu::Kernel emulated_##name = emu::describe(&name);
#define DYNAMIC_SHARED(name) unsigned char* const name = emu::dynamic_shared()
#define SHARED(type, name)                                                                                             \
    using name##_type = type;                                                                                          \
    static char name##_key;                                                                                            \
    name##_type& name = *static_cast<name##_type*>(emu::shared_array(&name##_key, sizeof(name##_type), alignof(name##_type)))

DEV u32 bits_of(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}

DEV float float_of(u32 bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

// As to_bf16.
DEV f16 to_f16(float x) {
    const u32 bits = bits_of(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return {0x7fff};
    if (magnitude >= 0x477ff000) return {u16(sign | 0x7c00)};
    // Below the smallest normal number, adding 0.5 leaves the rounded 24-bit subnormal in the low bits.
    if (magnitude < 0x38800000) return {u16(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000))};
    return {u16(sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13)};
}

DEV float to_float(f16 x) {
    const u32 sign = u32(x.bits & 0x8000) << 16, magnitude = u32(x.bits & 0x7fff) << 13;
    if ((x.bits & 0x7c00) == 0x7c00) return float_of(sign | magnitude | 0x7f800000);
    return float_of(sign | bits_of(float_of(magnitude) * 0x1p112f));
}

DEV u32 shared_address(const void* pointer) { return emu::shared_address(pointer); }
DEV float rsqrtf(float x) { return 1.0f / sqrtf(x); }
DEV float atomic_add(float* address, float value) { return emu::atomic_add(address, value); }
DEV u32 atomic_add(u32* address, u32 value) { return emu::atomic_add(address, value); }

#else

#define DEV static __device__ __forceinline__
#define KERNEL extern "C" __global__
#define REGISTER_KERNEL(name)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#define SHARED(type, name)                                                                                             \
    using name##_type = type;                                                                                          \
    __shared__ name##_type name

DEV u32 bits_of(float x) { return __float_as_uint(x); }
DEV float float_of(u32 bits) { return __uint_as_float(bits); }

DEV f16 to_f16(float x) {
    f16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
    return r;
}

DEV float to_float(f16 x) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x.bits));
    return r;
}

DEV u32 shared_address(const void* pointer) { return u32(__cvta_generic_to_shared(pointer)); }
DEV float atomic_add(float* address, float value) { return atomicAdd(address, value); }
DEV u32 atomic_add(u32* address, u32 value) { return atomicAdd(address, value); }

#endif

#if defined(VITSCOPE_EMULATED) || __CUDA_ARCH__ < 800

// Round to nearest even; a NaN becomes the one NaN that the GPU's conversion gives. sm_80 is the first to have one.
DEV bf16 to_bf16(float x) {
    const u32 bits = bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

#else

DEV bf16 to_bf16(float x) {
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
    return r;
}

#endif

DEV float to_float(float x) { return x; }
DEV float to_float(bf16 x) { return float_of(u32(x.bits) << 16); }

// Whether two types are the same one.
template <class A, class B> constexpr bool is_same = false;
template <class A> constexpr bool is_same<A, A> = true;

// `x` in the storage type `T`.
template <class T> DEV T from_float(float x) {
    if constexpr (is_same<T, float>) return x;
    else if constexpr (is_same<T, f16>) return to_f16(x);
    else return to_bf16(x);
}

DEV constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
