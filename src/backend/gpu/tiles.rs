//! Tensor maps as the driver encodes them: cudarc's safe interface does not have them.

use cudarc::driver::{DriverError, sys};

use super::launch::{Storage, Swizzle, TileMap};

/// The 128 bytes of a tensor map.
///
/// # Errors
/// The driver's, for a map outside of its limits.
pub fn encode(map: TileMap) -> Result<[u64; 16], DriverError> {
    let data_type = match map.storage {
        Storage::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        Storage::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        Storage::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Bytes64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let mut out = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: the map is aligned as its type says, and every array has a value for each of at most 3 dimensions.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut out,
            data_type,
            map.rank.min(3),
            map.base as *mut std::ffi::c_void,
            map.dims.as_ptr(),
            map.strides.as_ptr(),
            map.area.as_ptr(),
            [1; 3].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()?;
    Ok(out.opaque)
}
