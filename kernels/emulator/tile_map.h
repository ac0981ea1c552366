// A tensor map as this emulator encodes it, and the swizzle that tiles have in shared memory.
#pragma once

#include <cstdint>

namespace emu {

constexpr uint32_t MAX_RANK = 5;

// 16-byte chunks of rows of `span` bytes (32, 64 or 128), exchanged by the bits of the absolute shared address from 7 on.
inline uint32_t swizzled(uint32_t address, uint32_t span) {
    return span ? address ^ ((address >> 7 & (span / 16 - 1)) << 4) : address;
}

// The bytes of a CUtensorMap are the driver's own; these are the emulator's.
struct TileMap {
    static constexpr uint64_t MAGIC = 0x70616d2065746974;
    uint64_t magic;
    uint64_t base;
    uint64_t dims[MAX_RANK];          // elements, the innermost first
    uint64_t strides[MAX_RANK - 1];   // bytes, of all but the innermost
    uint16_t box[MAX_RANK];           // elements
    uint8_t element_strides[MAX_RANK];
    uint8_t rank, element_bytes, interleave, fill;
    uint8_t span;                     // the swizzle's, in bytes; 0 for none

    uint32_t row_bytes() const { return uint32_t(box[0]) * element_bytes; }
    uint32_t box_bytes() const {
        uint32_t bytes = row_bytes();
        for (uint32_t i = 1; i < rank; i++) bytes *= box[i];
        return bytes;
    }
};
static_assert(sizeof(TileMap) <= 128, "a CUtensorMap has 128 bytes");

}  // namespace emu
