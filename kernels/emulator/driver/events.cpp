// Events: marks in streams, which other streams or the host wait for, and which tell the time.
#include "driver.h"

namespace emu::driver {

DRIVER_API cuEventCreate(CUevent* out, uint32_t flags) {
    return call(Needs::context, [&](State& state) {
        auto event = std::make_shared<Event>();
        event->has_timing = !(flags & CU_EVENT_DISABLE_TIMING);
        return *out = state.events.add(std::move(event)), CUDA_SUCCESS;
    });
}

DRIVER_API cuEventDestroy_v2(CUevent handle) {
    return call(Needs::cleanup, [&](State& state) {
        return state.events.remove(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    });
}

DRIVER_API cuEventRecord(CUevent handle, CUstream stream_handle) {
    return call(Needs::handle, [&](State& state) {
        const auto event = state.events.find(handle);
        const auto stream = state.stream(stream_handle);
        if (!event || !stream) return CUDA_ERROR_INVALID_HANDLE;
        if (stream->capture) {
            if (stream->capture->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
            event->capture = stream->capture;
            event->tail = stream->tail;
            return CUDA_SUCCESS;
        }
        const CUresult result = state.enqueue(stream, [event](State& state) {
            event->time = state.busy;
            return CUDA_SUCCESS;
        });
        if (result) return result;
        event->capture = nullptr;
        event->stream = stream;
        event->position = stream->issued;
        return CUDA_SUCCESS;
    });
}

// A stream that waits for an event of a capture joins that capture.
static CUresult wait_in_capture(State& state, Stream& stream, const Event& event) {
    auto& capture = stream.capture;
    if (capture && capture->is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    CUresult refusal = CUDA_SUCCESS;
    if (&stream == state.null_stream.get()) refusal = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    else if (!event.capture) refusal = event.stream ? CUDA_ERROR_STREAM_CAPTURE_ISOLATION : CUDA_SUCCESS;
    else if (event.capture->is_over) refusal = CUDA_ERROR_CAPTURED_EVENT;
    else if (capture && capture != event.capture) refusal = CUDA_ERROR_STREAM_CAPTURE_MERGE;
    if (refusal) {
        if (capture) capture->is_invalid = true;
        if (event.capture) event.capture->is_invalid = true;
        return refusal;
    }
    if (!event.capture) return CUDA_SUCCESS;
    capture = event.capture;
    stream.tail.insert(stream.tail.end(), event.tail.begin(), event.tail.end());
    return CUDA_SUCCESS;
}

DRIVER_API cuStreamWaitEvent(CUstream stream_handle, CUevent handle, uint32_t) {
    return call(Needs::handle, [&](State& state) {
        const auto event = state.events.find(handle);
        const auto stream = state.stream(stream_handle);
        if (!event || !stream) return CUDA_ERROR_INVALID_HANDLE;
        if (stream->capture || event->capture) return wait_in_capture(state, *stream, *event);
        if (event->is_done()) return CUDA_SUCCESS;
        stream->issued++;
        stream->pieces.push_back({event->stream, event->position, nullptr});
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuEventSynchronize(CUevent handle) {
    return call(Needs::handle, [&](State& state) {
        const auto event = state.events.find(handle);
        if (!event) return CUDA_ERROR_INVALID_HANDLE;
        if (event->capture) return CUDA_ERROR_CAPTURED_EVENT;
        return event->is_done() ? CUDA_SUCCESS : state.run(*event->stream, event->position);
    });
}

// As a query of a stream does, it moves the work on.
DRIVER_API cuEventQuery(CUevent handle) {
    return call(Needs::handle, [&](State& state) {
        const auto event = state.events.find(handle);
        if (!event) return CUDA_ERROR_INVALID_HANDLE;
        if (event->capture) return CUDA_ERROR_CAPTURED_EVENT;
        if (event->is_done()) return CUDA_SUCCESS;
        state.run(*event->stream, event->stream->done + 1);
        return CUDA_ERROR_NOT_READY;
    });
}

// Time that the emulated device spent working, not that passed.
DRIVER_API cuEventElapsedTime_v2(float* ms, CUevent start_handle, CUevent end_handle) {
    return call(Needs::handle, [&](State& state) {
        const auto start = state.events.find(start_handle), end = state.events.find(end_handle);
        for (const auto& event : {start, end}) {
            if (!event || !event->has_timing || !event->stream) return CUDA_ERROR_INVALID_HANDLE;
            if (event->capture) return CUDA_ERROR_CAPTURED_EVENT;
            if (!event->is_done()) return CUDA_ERROR_NOT_READY;
        }
        *ms = float((end->time - start->time) * 1e3);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuEventElapsedTime(float* ms, CUevent start, CUevent end) { return cuEventElapsedTime_v2(ms, start, end); }

}  // namespace emu::driver
