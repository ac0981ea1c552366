// The device, its attributes, and its primary context.
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace emu::driver {

static std::mutex the_lock;
static EmuSettings settings_of_next = {8ull << 30, 0, 0, 0, std::thread::hardware_concurrency()};
static bool was_initialised = false;
static std::unique_ptr<State> the_context;
static uint32_t retained = 0;
static thread_local CUcontext current = nullptr;

// The handle of the primary context, which is the same in every life of it.
static CUcontext primary_handle() { return &the_context; }

std::mutex& lock() { return the_lock; }
State* primary() { return the_context.get(); }
bool is_initialised() { return was_initialised; }
bool is_current() { return current == primary_handle(); }

// A device without memory is no device.
static bool has_device() { return settings_of_next.memory_bytes != 0; }

// As an H100 (SXM, 80 GB) reports itself, apart from what the emulator has not. Other attributes are 0.
static int attribute(uint32_t number) {
    switch (number) {
        case 1: return 1024;            // threads per block
        case 2: case 3: return 1024;    // block in x, y
        case 4: return 64;              // block in z
        case 5: return 0x7fffffff;      // grid in x
        case 6: case 7: return 65535;   // grid in y, z
        case 8: return 48 * 1024;       // shared memory per block
        case 9: return 64 * 1024;       // constant memory
        case 10: return 32;             // warp size
        case 11: return 0x7fffffff;     // pitch
        case 12: return 65536;          // registers per block
        case 13: return 1'980'000;      // clock in kHz
        case 14: return 512;            // alignment of textures
        case 15: return 1;              // copies overlap kernels
        case 16: return 132;            // multiprocessors
        case 31: return 1;              // concurrent kernels
        case 32: return 1;              // ECC
        case 36: return 2'619'000;      // memory clock in kHz
        case 37: return 5120;           // memory bus in bits
        case 38: return 50 << 20;       // L2 cache
        case 39: return 2048;           // threads per multiprocessor
        case 40: return 3;              // copy engines
        case 41: return 1;              // unified addressing
        case 75: return 9;              // compute capability, major
        case 76: return 0;              // and minor
        case 78: return 1;              // stream priorities
        case 81: return 228 * 1024;     // shared memory per multiprocessor
        case 82: return 65536;          // registers per multiprocessor
        case 95: return 1;              // cooperative launch
        case 97: return 227 * 1024;     // shared memory per block, opted in
        case 106: return 32;            // blocks per multiprocessor
        case 111: return 1024;          // shared memory reserved per block
        case 115: return 1;             // stream-ordered allocation
        default: return 0;
    }
}

// Calls about the device need no context.
template <class Body> static CUresult device_call(CUdevice device, Body body) {
    std::lock_guard<std::mutex> guard(the_lock);
    if (!was_initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (device != 0 || !has_device()) return CUDA_ERROR_INVALID_DEVICE;
    return body();
}

extern "C" __attribute__((visibility("default"))) int emu_driver_configure(const EmuSettings* settings) {
    std::lock_guard<std::mutex> guard(the_lock);
    if (the_context) return 1;
    settings_of_next = *settings;
    return 0;
}

DRIVER_API cuInit(uint32_t flags) {
    std::lock_guard<std::mutex> guard(the_lock);
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    was_initialised = true;
    return has_device() ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

DRIVER_API cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }

DRIVER_API cuDeviceGetCount(int* count) {
    std::lock_guard<std::mutex> guard(the_lock);
    if (!was_initialised) return CUDA_ERROR_NOT_INITIALIZED;
    return *count = has_device(), CUDA_SUCCESS;
}

DRIVER_API cuDeviceGet(CUdevice* device, int ordinal) {
    return device_call(ordinal, [&] { return *device = 0, CUDA_SUCCESS; });
}

DRIVER_API cuDeviceGetName(char* name, int bytes, CUdevice device) {
    return device_call(device, [&] {
        snprintf(name, size_t(bytes < 0 ? 0 : bytes), "vitscope emulated GPU");
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuDeviceGetUuid_v2(unsigned char* uuid, CUdevice device) {
    return device_call(device, [&] { return memcpy(uuid, "vitscopeemulated", 16), CUDA_SUCCESS; });
}

DRIVER_API cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    return device_call(device, [&] { return *bytes = settings_of_next.memory_bytes, CUDA_SUCCESS; });
}

DRIVER_API cuDeviceGetAttribute(int* value, uint32_t number, CUdevice device) {
    return device_call(device, [&] { return *value = attribute(number), CUDA_SUCCESS; });
}

DRIVER_API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    return device_call(device, [&] {
        if (!the_context) the_context = std::make_unique<State>(settings_of_next);
        retained++;
        return *context = primary_handle(), CUDA_SUCCESS;
    });
}

DRIVER_API cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    return device_call(device, [&] {
        if (retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
        if (--retained == 0) the_context.reset();
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuCtxGetCurrent(CUcontext* context) { return *context = current, CUDA_SUCCESS; }

DRIVER_API cuCtxSetCurrent(CUcontext context) {
    std::lock_guard<std::mutex> guard(the_lock);
    if (context && context != primary_handle()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context && !the_context) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return current = context, CUDA_SUCCESS;
}

DRIVER_API cuCtxGetDevice(CUdevice* device) {
    return call(Needs::context, [&](State&) { return *device = 0, CUDA_SUCCESS; });
}

DRIVER_API cuCtxSynchronize() {
    return call(Needs::context, [&](State& state) {
        if (state.captures.empty()) return state.run_all();
        for (auto& capture : state.captures) capture->is_invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    });
}

DRIVER_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    return call(Needs::context, [&](State&) {
        if (least) *least = 0;
        if (greatest) *greatest = -5;
        return CUDA_SUCCESS;
    });
}

// How the host waits, how much stack a thread has and how a cache is split change nothing here.
DRIVER_API cuCtxSetFlags(uint32_t) {
    return call(Needs::context, [](State&) { return CUDA_SUCCESS; });
}
DRIVER_API cuCtxSetCacheConfig(uint32_t) {
    return call(Needs::context, [](State&) { return CUDA_SUCCESS; });
}
DRIVER_API cuCtxGetCacheConfig(uint32_t* config) {
    return call(Needs::context, [&](State&) { return *config = 0, CUDA_SUCCESS; });
}
DRIVER_API cuCtxGetLimit(size_t* value, uint32_t limit) {
    return call(Needs::context, [&](State&) {
        constexpr uint32_t STACK_SIZE = 0;
        *value = limit == STACK_SIZE ? 1024 : 0;
        return limit == STACK_SIZE ? CUDA_SUCCESS : CUDA_ERROR_UNSUPPORTED_LIMIT;
    });
}

}  // namespace emu::driver
