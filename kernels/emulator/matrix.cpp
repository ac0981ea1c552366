// ldmatrix and mma.sync: a warp's matrix instructions, with the register layouts of the PTX manual.
#include <cstring>

#include "instructions.h"

#define SITE __builtin_return_address(0)

namespace emu {

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

float widen(uint32_t half, Half type) {
    if (type == Half::bf16) return from_bits(half << 16);
    const uint32_t sign = (half & 0x8000) << 16, magnitude = (half & 0x7fff) << 13;
    if ((half & 0x7c00) == 0x7c00) return from_bits(sign | magnitude | 0x7f800000);
    uint32_t bits;
    const float scaled = from_bits(magnitude) * 0x1p112f;
    memcpy(&bits, &scaled, 4);
    return from_bits(sign | bits);
}

struct LoadMatrix {
    uint32_t* out;
    uint32_t address;
};

// Lane l gives the address of row l % 8 of matrix l / 8; lane l receives of each matrix row l / 4, columns 2 (l % 4)
// and the next (transposed: column l / 4, those rows).
template <bool TRANSPOSED> static void load_four(Block& block, void* const* arguments, uint32_t, Site site) {
    for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t value[8][8];
        uint32_t addresses[8];
        for (int row = 0; row < 8; row++) {
            const uint32_t lane = uint32_t(matrix * 8 + row);
            const uint32_t address = static_cast<LoadMatrix*>(arguments[lane])->address;
            addresses[row] = address;
            if (address % 16) block.fail("alignment", "ldmatrix: a row's address is no multiple of 16", site);
            block.touch_shared(address, 16, Access::read, site);
            memcpy(value[row], block.arena_start() + address, 16);
        }
        block.count().add_rows_of_matrix(addresses);
        for (int lane = 0; lane < 32; lane++) {
            const int row = lane / 4, column = lane % 4 * 2;
            const uint32_t low = TRANSPOSED ? value[column][row] : value[row][column];
            const uint32_t high = TRANSPOSED ? value[column + 1][row] : value[row][column + 1];
            static_cast<LoadMatrix*>(arguments[lane])->out[matrix] = low | high << 16;
        }
    }
}

void load_matrix(uint32_t* out, uint32_t address, bool transposed) {
    LoadMatrix l{out, address};
    if (transposed) meet_warp("ldmatrix.trans", ~0u, &l, load_four<true>, false, SITE);
    else meet_warp("ldmatrix", ~0u, &l, load_four<false>, false, SITE);
}

struct Multiply {
    float* d;
    const uint32_t *a, *b;
};

// d (16,8) += a (16,K) b (K,8), summed over k in order in f32. A GPU's order differs and is not documented.
template <int K> static void product(Block& block, void* const* arguments, const float (&a)[16][16], const float (&b)[16][8]) {
    float d[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const float* r = static_cast<Multiply*>(arguments[lane])->d;
        for (int i = 0; i < 4; i++) d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = r[i];
    }
    for (int m = 0; m < 16; m++) {
        for (int k = 0; k < K; k++) {
            for (int n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        float* r = static_cast<Multiply*>(arguments[lane])->d;
        for (int i = 0; i < 4; i++) r[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
    block.count().matrix_products++;
}

template <Half TYPE> static void product_of_halves(Block& block, void* const* arguments, uint32_t, Site) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const auto* m = static_cast<Multiply*>(arguments[lane]);
        const int row = lane / 4, pair = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            float* to = &a[row + i % 2 * 8][pair + i / 2 * 8];
            to[0] = widen(m->a[i] & 0xffff, TYPE);
            to[1] = widen(m->a[i] >> 16, TYPE);
        }
        for (int i = 0; i < 2; i++) {
            b[pair + i * 8][row] = widen(m->b[i] & 0xffff, TYPE);
            b[pair + i * 8 + 1][row] = widen(m->b[i] >> 16, TYPE);
        }
    }
    product<16>(block, arguments, a, b);
}

// tf32 keeps 10 bits of the fraction; the hardware ignores the others.
static void product_of_tf32(Block& block, void* const* arguments, uint32_t, Site) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const auto* m = static_cast<Multiply*>(arguments[lane]);
        for (int i = 0; i < 4; i++) a[lane / 4 + i % 2 * 8][lane % 4 + i / 2 * 4] = from_bits(m->a[i] & 0xffffe000);
        for (int i = 0; i < 2; i++) b[lane % 4 + i * 4][lane / 4] = from_bits(m->b[i] & 0xffffe000);
    }
    product<8>(block, arguments, a, b);
}

void multiply_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, Half type) {
    Multiply m{d, a, b};
    if (type == Half::bf16) meet_warp("mma.sync bf16", ~0u, &m, product_of_halves<Half::bf16>, false, SITE);
    else meet_warp("mma.sync f16", ~0u, &m, product_of_halves<Half::f16>, false, SITE);
}

void multiply_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b) {
    Multiply m{d, a, b};
    meet_warp("mma.sync tf32", ~0u, &m, product_of_tf32, false, SITE);
}

}  // namespace emu
