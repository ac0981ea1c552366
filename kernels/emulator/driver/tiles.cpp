// Tensor maps for the copy engine: values, made without a context.
#include "driver.h"

namespace emu::driver {

DRIVER_API cuTensorMapEncodeTiled(void* map, uint32_t type, uint32_t rank, void* base, const uint64_t* dims,
                                  const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                                  uint32_t interleave, uint32_t swizzle, uint32_t promotion, uint32_t fill) {
    // A hint for a cache that is not there.
    (void)promotion;
    const int refused = emu_tile_map_encode(map, type, rank, reinterpret_cast<uint64_t>(base), dims, strides, box,
                                            element_strides, interleave, swizzle, fill);
    return refused ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

}  // namespace emu::driver
