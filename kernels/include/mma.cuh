// Matrix instructions of a warp (sm_80): fragments from shared memory, and D (16,8) += A (16,K) B (K,8).
//
// Fragments, for lane l with g = l / 4 and p = l % 4:
//   A (16,16) halves  a[0] = (g, 2p..)  a[1] = (g+8, 2p..)  a[2] = (g, 2p+8..)  a[3] = (g+8, 2p+8..)
//   B (16,8) halves   b[0] = (2p.., g)  b[1] = (2p+8.., g)
//   D (16,8) floats   d[0], d[1] = (g, 2p..)  d[2], d[3] = (g+8, 2p..)
#pragma once

#include "include/types.cuh"

#ifdef VITSCOPE_EMULATED

// Four 8 x 8 matrices of halves: lane l gives the address of row l % 8 of matrix l / 8.
DEV void load_matrices(u32 (&out)[4], u32 address) { emu::load_matrix(out, address, false); }
// The same, each matrix transposed.
DEV void load_matrices_transposed(u32 (&out)[4], u32 address) { emu::load_matrix(out, address, true); }

DEV void multiply(bf16, float (&d)[4], const u32 (&a)[4], const u32* b) {
    emu::multiply_m16n8k16(d, a, b, emu::Half::bf16);
}
DEV void multiply(f16, float (&d)[4], const u32 (&a)[4], const u32* b) {
    emu::multiply_m16n8k16(d, a, b, emu::Half::f16);
}
// A (16,8), B (8,8) in tf32: f32 words of which the last 13 bits do not count.
DEV void multiply_tf32(float (&d)[4], const u32 (&a)[4], const u32* b) { emu::multiply_m16n8k8_tf32(d, a, b); }

#else

DEV void load_matrices(u32 (&out)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}
DEV void load_matrices_transposed(u32 (&out)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

#define MULTIPLY(shape, types, d, a, b)                                                                   \
    asm volatile("mma.sync.aligned." shape ".row.col." types                                                           \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                    \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

DEV void multiply(bf16, float (&d)[4], const u32 (&a)[4], const u32* b) {
    MULTIPLY("m16n8k16", "f32.bf16.bf16.f32", d, a, b);
}
DEV void multiply(f16, float (&d)[4], const u32 (&a)[4], const u32* b) {
    MULTIPLY("m16n8k16", "f32.f16.f16.f32", d, a, b);
}
DEV void multiply_tf32(float (&d)[4], const u32 (&a)[4], const u32* b) {
    MULTIPLY("m16n8k8", "f32.tf32.tf32.f32", d, a, b);
}

#undef MULTIPLY

#endif
