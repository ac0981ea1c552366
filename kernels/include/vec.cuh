// Accesses of 16 bytes, the widest a thread has.
#pragma once

#include "include/types.cuh"

// 16 bytes of T: 4 floats or 8 halves.
template <class T> struct alignas(16) Vec {
    static constexpr int SIZE = 16 / sizeof(T);
    T at[SIZE];
};

#ifdef VITSCOPE_EMULATED
// One access for the checks, as it is one on the GPU.
typedef u32 Words4 __attribute__((vector_size(16), may_alias));
typedef float Pair __attribute__((vector_size(8), may_alias));
#else
typedef uint4 Words4;
typedef float2 Pair;
#endif

// 8 bytes at once.
DEV void store_pair(float* to, float first, float second) { *reinterpret_cast<Pair*>(to) = Pair{first, second}; }

template <class T> DEV Vec<T> load_vec(const T* from) {
    union {
        Words4 words;
        Vec<T> vec;
    } u;
    u.words = *reinterpret_cast<const Words4*>(from);
    return u.vec;
}

template <class T> DEV void store_vec(T* to, const Vec<T>& vec) {
    union {
        Words4 words;
        Vec<T> vec;
    } u;
    u.vec = vec;
    *reinterpret_cast<Words4*>(to) = u.words;
}
