// What of the driver API's binary interface the stand-in needs: result codes, attribute numbers, structs. The numbers
// are the API's own (CUDA 13.0).
#pragma once

#include <cstddef>
#include <cstdint>

// code, name after CUDA_ERROR_, text as the driver gives it
#define VITSCOPE_CUDA_ERRORS(E)                                                                                        \
    E(1, INVALID_VALUE, "invalid argument")                                                                            \
    E(2, OUT_OF_MEMORY, "out of memory")                                                                               \
    E(3, NOT_INITIALIZED, "initialization error")                                                                      \
    E(100, NO_DEVICE, "no CUDA-capable device is detected")                                                            \
    E(101, INVALID_DEVICE, "invalid device ordinal")                                                                   \
    E(200, INVALID_IMAGE, "device kernel image is invalid")                                                            \
    E(201, INVALID_CONTEXT, "invalid device context")                                                                  \
    E(209, NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device")                              \
    E(215, UNSUPPORTED_LIMIT, "limit is not supported on this architecture")                                           \
    E(302, SHARED_OBJECT_SYMBOL_NOT_FOUND, "shared object symbol not found")                                           \
    E(303, SHARED_OBJECT_INIT_FAILED, "shared object initialization failed")                                           \
    E(304, OPERATING_SYSTEM, "OS call failed or operation not supported on this OS")                                   \
    E(400, INVALID_HANDLE, "invalid resource handle")                                                                  \
    E(401, ILLEGAL_STATE, "the operation cannot be performed in the present state")                                    \
    E(500, NOT_FOUND, "named symbol not found")                                                                        \
    E(600, NOT_READY, "device not ready")                                                                              \
    E(700, ILLEGAL_ADDRESS, "an illegal memory access was encountered")                                                \
    E(709, CONTEXT_IS_DESTROYED, "context is destroyed")                                                               \
    E(719, LAUNCH_FAILED, "unspecified launch failure")                                                                \
    E(720, COOPERATIVE_LAUNCH_TOO_LARGE, "too many blocks in cooperative launch")                                      \
    E(801, NOT_SUPPORTED, "operation not supported")                                                                   \
    E(900, STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing")                             \
    E(901, STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture")                      \
    E(902, STREAM_CAPTURE_MERGE, "operation would result in a merge of separate capture sequences")                    \
    E(903, STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began")                           \
    E(904, STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work")                                              \
    E(905, STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream")                        \
    E(906, STREAM_CAPTURE_IMPLICIT, "operation would make the legacy stream depend on a capturing blocking stream")    \
    E(907, CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream")                  \
    E(908, STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture sequence from another thread")

enum CUresult : uint32_t {
    CUDA_SUCCESS = 0,
#define E(code, name, text) CUDA_ERROR_##name = code,
    VITSCOPE_CUDA_ERRORS(E)
#undef E
};

using CUdevice = int;
using CUdeviceptr = uint64_t;
// Handles are made by the stand-in and mean nothing to the host program.
using CUcontext = void*;
using CUstream = void*;
using CUevent = void*;
using CUmodule = void*;
using CUfunction = void*;
using CUgraph = void*;
using CUgraphExec = void*;
using CUhostFn = void (*)(void*);

// Flags.
constexpr uint32_t CU_STREAM_NON_BLOCKING = 1;
constexpr uint32_t CU_EVENT_DISABLE_TIMING = 2;

enum CaptureMode : uint32_t { CAPTURE_GLOBAL = 0, CAPTURE_THREAD_LOCAL = 1, CAPTURE_RELAXED = 2 };
enum CaptureStatus : uint32_t { CAPTURE_NONE = 0, CAPTURE_ACTIVE = 1, CAPTURE_INVALIDATED = 2 };

enum FunctionAttribute : uint32_t {
    FUNCTION_MAX_THREADS_PER_BLOCK = 0,
    FUNCTION_PTX_VERSION = 5,
    FUNCTION_BINARY_VERSION = 6,
    FUNCTION_MAX_DYNAMIC_SHARED_BYTES = 8,
    FUNCTION_SHARED_CARVEOUT = 9,
};

enum LaunchAttributeId : uint32_t {
    LAUNCH_IGNORE = 0,
    LAUNCH_ACCESS_POLICY_WINDOW = 1,
    LAUNCH_COOPERATIVE = 2,
    LAUNCH_CLUSTER_DIMENSION = 4,
    LAUNCH_CLUSTER_SCHEDULING = 5,
    LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION = 6,
    LAUNCH_PRIORITY = 8,
};

struct CUlaunchAttribute {
    LaunchAttributeId id;
    char pad[4];
    union {
        char bytes[64];
        int cooperative;
        struct {
            uint32_t x, y, z;
        } cluster;
    };
};
static_assert(sizeof(CUlaunchAttribute) == 72);

struct CUlaunchConfig {
    uint32_t grid[3], block[3], dynamic_shared;
    CUstream stream;
    const CUlaunchAttribute* attributes;
    uint32_t attribute_count;
};
