// Device memory, pinned memory of the host, fills and copies.
#include <cstring>

#include "driver.h"

namespace emu::driver {

bool State::is_pinned(const void* start, size_t bytes) const {
    const auto at = reinterpret_cast<uintptr_t>(start);
    auto entry = pinned.upper_bound(at);
    if (entry == pinned.begin()) return false;
    --entry;
    return at - entry->first <= entry->second && bytes <= entry->second - (at - entry->first);
}

static std::string range(CUdeviceptr address, size_t bytes) {
    char text[64];
    snprintf(text, sizeof text, "%zu bytes at 0x%llx", bytes, (unsigned long long)address);
    return text;
}

// The memory was there at the call and is gone at the work's turn.
static CUresult lost(const char* what, CUdeviceptr address, size_t bytes) {
    return note(CUDA_ERROR_ILLEGAL_ADDRESS, std::string(what) + ": " + range(address, bytes) +
                                                " of the device were freed before their turn in the stream");
}

static CUresult unpinned(const char* what) {
    return note(CUDA_ERROR_ILLEGAL_ADDRESS, std::string(what) + ": the pinned memory of the host was freed before the copy's turn in the stream");
}

static bool holds(State& state, CUdeviceptr address, size_t bytes) { return emu_holds(state.device, address, bytes); }

static CUresult allocate(State& state, CUdeviceptr* out, size_t bytes) {
    *out = emu_allocate(state.device, bytes);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult release(State& state, CUdeviceptr address) {
    return emu_release(state.device, address) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

// A pinned source is read at its turn in the stream, any other one now. A graph reads every source at its turn.
static CUresult upload(State& state, const std::shared_ptr<Stream>& stream, CUdeviceptr to, const void* from, size_t bytes) {
    if (!holds(state, to, bytes)) return CUDA_ERROR_INVALID_VALUE;
    const bool is_pinned = state.is_pinned(from, bytes);
    std::shared_ptr<uint8_t[]> copy;
    if (!is_pinned && !stream->capture) {
        copy.reset(new uint8_t[bytes]);
        memcpy(copy.get(), from, bytes);
    }
    return state.enqueue(stream, [=](State& state) {
        if (is_pinned && !state.is_pinned(from, bytes)) return unpinned("copy to the device");
        if (emu_upload(state.device, to, copy ? copy.get() : from, bytes)) return lost("copy to the device", to, bytes);
        return CUDA_SUCCESS;
    });
}

// Into pinned memory at its turn; into any other memory before the call returns.
static CUresult download(State& state, const std::shared_ptr<Stream>& stream, void* to, CUdeviceptr from, size_t bytes) {
    if (!holds(state, from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    const bool is_pinned = state.is_pinned(to, bytes), waits = !is_pinned && !stream->capture;
    const CUresult result = state.enqueue(stream, [=](State& state) {
        if (is_pinned && !state.is_pinned(to, bytes)) return unpinned("copy from the device");
        return emu_download(state.device, to, from, bytes) ? lost("copy from the device", from, bytes) : CUDA_SUCCESS;
    });
    return result || !waits ? result : state.run(*stream);
}

static CUresult copy(State& state, const std::shared_ptr<Stream>& stream, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    if (!holds(state, to, bytes) || !holds(state, from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return state.enqueue(stream, [=](State& state) {
        return emu_copy(state.device, to, from, bytes) ? lost("copy on the device", from, bytes) : CUDA_SUCCESS;
    });
}

static CUresult fill(State& state, const std::shared_ptr<Stream>& stream, CUdeviceptr to, uint32_t value, uint32_t width, size_t n) {
    if (n > SIZE_MAX / width || to % width || !holds(state, to, n * width)) return CUDA_ERROR_INVALID_VALUE;
    return state.enqueue(stream, [=](State& state) {
        return emu_fill(state.device, to, value, width, n) ? lost("fill", to, n * width) : CUDA_SUCCESS;
    });
}

// An asynchronous call of `bytes` bytes; of none it does nothing.
template <class Body> static CUresult in_stream(CUstream handle, size_t bytes, Body body) {
    return call(Needs::context, [&](State& state) {
        const auto stream = state.stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        return bytes ? body(state, stream) : CUDA_SUCCESS;
    });
}

// A call without a stream is one in the null stream. It must not be made during a capture.
template <class Body> static CUresult in_null_stream(size_t bytes, bool waits, Body body) {
    return call(Needs::context, [&](State& state) {
        if (const CUresult refusal = state.refuse_in_capture()) return refusal;
        const CUresult result = bytes ? body(state, state.null_stream) : CUDA_SUCCESS;
        return result || !waits ? result : state.run(*state.null_stream);
    });
}

DRIVER_API cuMemGetInfo_v2(size_t* free, size_t* total) {
    return call(Needs::context, [&](State& state) {
        *total = state.settings.memory_bytes;
        *free = *total - emu_memory_used(state.device);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
    return call(Needs::context, [&](State& state) {
        if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
        if (const CUresult refusal = state.refuse_in_capture()) return refusal;
        return allocate(state, out, bytes);
    });
}

// No bytes are the null address. A capture would make it a part of the graph, which is not supported.
DRIVER_API cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream stream) {
    *out = 0;
    return in_stream(stream, bytes, [&](State& state, const std::shared_ptr<Stream>& stream) {
        return stream->capture ? CUDA_ERROR_NOT_SUPPORTED : allocate(state, out, bytes);
    });
}

// Waits for all work.
DRIVER_API cuMemFree_v2(CUdeviceptr address) {
    return call(Needs::cleanup, [&](State& state) {
        if (!address) return CUDA_SUCCESS;
        if (const CUresult refusal = state.refuse_in_capture()) return refusal;
        state.run_all();
        return release(state, address);
    });
}

DRIVER_API cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
    return call(Needs::cleanup, [&](State& state) {
        const auto stream = state.stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (!address) return CUDA_SUCCESS;
        if (stream->capture) return CUDA_ERROR_NOT_SUPPORTED;
        if (!holds(state, address, 1)) return CUDA_ERROR_INVALID_VALUE;
        return state.enqueue(stream, [=](State& state) { return release(state, address); });
    });
}

DRIVER_API cuMemHostAlloc(void** out, size_t bytes, uint32_t) {
    return call(Needs::context, [&](State& state) {
        if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
        if (const CUresult refusal = state.refuse_in_capture()) return refusal;
        constexpr size_t PAGE = 4096;
        std::unique_ptr<uint8_t[]> storage(new uint8_t[bytes + PAGE]);
        const uintptr_t start = (reinterpret_cast<uintptr_t>(storage.get()) + PAGE - 1) & ~(PAGE - 1);
        *out = reinterpret_cast<void*>(start);
        memset(*out, 0xff, bytes);
        state.pinned[start] = bytes;
        state.pinned_storage[start] = std::move(storage);
        return CUDA_SUCCESS;
    });
}

// Does not wait: a copy that is still to come finds its memory gone.
DRIVER_API cuMemFreeHost(void* start) {
    return call(Needs::cleanup, [&](State& state) {
        const auto at = reinterpret_cast<uintptr_t>(start);
        state.pinned_storage.erase(at);
        return state.pinned.erase(at) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    });
}

DRIVER_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    return in_stream(stream, bytes, [&](State& state, auto& stream) { return upload(state, stream, to, from, bytes); });
}
DRIVER_API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return in_stream(stream, bytes, [&](State& state, auto& stream) { return download(state, stream, to, from, bytes); });
}
DRIVER_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return in_stream(stream, bytes, [&](State& state, auto& stream) { return copy(state, stream, to, from, bytes); });
}
DRIVER_API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream stream) {
    return in_stream(stream, n, [&](State& state, auto& stream) { return fill(state, stream, to, value, 1, n); });
}
DRIVER_API cuMemsetD32Async(CUdeviceptr to, uint32_t value, size_t n, CUstream stream) {
    return in_stream(stream, n, [&](State& state, auto& stream) { return fill(state, stream, to, value, 4, n); });
}

DRIVER_API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    return in_null_stream(bytes, true, [&](State& state, auto& stream) { return upload(state, stream, to, from, bytes); });
}
DRIVER_API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    return in_null_stream(bytes, true, [&](State& state, auto& stream) { return download(state, stream, to, from, bytes); });
}
DRIVER_API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return in_null_stream(bytes, false, [&](State& state, auto& stream) { return copy(state, stream, to, from, bytes); });
}
DRIVER_API cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t n) {
    return in_null_stream(n, false, [&](State& state, auto& stream) { return fill(state, stream, to, value, 1, n); });
}

}  // namespace emu::driver
