// Streams are queues of work that wait until something makes them run.
#include <algorithm>
#include <chrono>

#include "driver.h"

namespace emu::driver {

State::~State() {
    // Work that nobody waited for is dropped. It may hold streams that hold it.
    null_stream->pieces.clear();
    for (auto& [handle, stream] : streams.all()) stream->pieces.clear();
    for (auto& stream : orphans) stream->pieces.clear();
    emu_device_close(device);
}

std::shared_ptr<Stream> State::stream(CUstream handle) const {
    constexpr uintptr_t LEGACY = 1;
    return reinterpret_cast<uintptr_t>(handle) <= LEGACY ? null_stream : streams.find(handle);
}

static void push(Stream& stream, Piece piece) {
    stream.issued++;
    stream.pieces.push_back(std::move(piece));
}

CUresult State::enqueue(const std::shared_ptr<Stream>& stream, Action act) {
    if (stream->capture) {
        Capture& capture = *stream->capture;
        if (capture.is_invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        capture.nodes.push_back({std::move(act), std::move(stream->tail)});
        stream->tail = {capture.nodes.size() - 1};
        return CUDA_SUCCESS;
    }
    // The legacy null stream and streams that are not "non-blocking" follow each other.
    if (stream == null_stream) {
        for (auto& [handle, other] : streams.all()) {
            if (!other->is_blocking) continue;
            if (other->capture) {
                other->capture->is_invalid = true;
                return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
            }
            if (other->done < other->issued) push(*stream, {other, other->issued, nullptr});
        }
    } else if (stream->is_blocking && null_stream->done < null_stream->issued) {
        push(*stream, {null_stream, null_stream->issued, nullptr});
    }
    push(*stream, {nullptr, 0, std::move(act)});
    return CUDA_SUCCESS;
}

CUresult State::run(Stream& stream, uint64_t position) {
    // A piece may run this stream again through another one, but only up to what is done already.
    while (!error && stream.done < position && !stream.pieces.empty()) {
        const Piece piece = std::move(stream.pieces.front());
        stream.pieces.pop_front();
        if (piece.other) run(*piece.other, piece.position);
        if (piece.act) act(piece.act);
        stream.done++;
    }
    return error;
}

CUresult State::act(const Action& action) {
    using Clock = std::chrono::steady_clock;
    if (error) return error;
    const auto start = Clock::now();
    const CUresult result = action(*this);
    busy += std::chrono::duration<double>(Clock::now() - start).count();
    if (result && !error) error = result;
    return error;
}

CUresult State::run_all() {
    run(*null_stream);
    for (auto& [handle, stream] : streams.all()) run(*stream);
    for (auto& stream : orphans) run(*stream);
    orphans.clear();
    return error;
}

void State::end_capture(std::shared_ptr<Capture> capture) {
    capture->is_over = true;
    for (auto& [handle, stream] : streams.all()) {
        if (stream->capture != capture) continue;
        stream->capture = nullptr;
        stream->tail.clear();
    }
    captures.erase(std::remove(captures.begin(), captures.end(), capture), captures.end());
}

CUresult State::refuse_on(Stream& stream) {
    if (!stream.capture) return CUDA_SUCCESS;
    stream.capture->is_invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult State::refuse_in_capture() {
    CUresult result = CUDA_SUCCESS;
    for (auto& capture : captures) {
        const bool is_own = capture->thread == std::this_thread::get_id() && capture->mode != CAPTURE_RELAXED;
        if (!is_own && capture->mode != CAPTURE_GLOBAL) continue;
        capture->is_invalid = true;
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return result;
}

static CUresult create(CUstream* out, uint32_t flags) {
    return call(Needs::context, [&](State& state) {
        if (flags & ~CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
        auto stream = std::make_shared<Stream>();
        stream->is_blocking = !(flags & CU_STREAM_NON_BLOCKING);
        return *out = state.streams.add(std::move(stream)), CUDA_SUCCESS;
    });
}

DRIVER_API cuStreamCreate(CUstream* stream, uint32_t flags) { return create(stream, flags); }
// Priorities decide nothing: a stream runs when it must.
DRIVER_API cuStreamCreateWithPriority(CUstream* stream, uint32_t flags, int) { return create(stream, flags); }

DRIVER_API cuStreamDestroy_v2(CUstream handle) {
    return call(Needs::cleanup, [&](State& state) {
        const auto stream = state.streams.find(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (stream->capture) stream->capture->is_invalid = true;
        if (stream->capture && stream->capture->origin == stream.get()) state.end_capture(stream->capture);
        // Its work is still to be done, at no promised time.
        if (!stream->pieces.empty()) state.orphans.push_back(stream);
        state.streams.remove(handle);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuStreamSynchronize(CUstream handle) {
    return call(Needs::handle, [&](State& state) {
        const auto stream = state.stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (const CUresult refusal = state.refuse_on(*stream)) return refusal;
        return state.run(*stream);
    });
}

// A query does one piece of the stream's work, so that a host program which polls comes to an end.
DRIVER_API cuStreamQuery(CUstream handle) {
    return call(Needs::handle, [&](State& state) {
        const auto stream = state.stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (const CUresult refusal = state.refuse_on(*stream)) return refusal;
        if (stream->done == stream->issued) return CUDA_SUCCESS;
        state.run(*stream, stream->done + 1);
        return CUDA_ERROR_NOT_READY;
    });
}

DRIVER_API cuLaunchHostFunc(CUstream handle, CUhostFn function, void* data) {
    return call(Needs::handle, [&](State& state) {
        const auto stream = state.stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        return state.enqueue(stream, [=](State&) { return function(data), CUDA_SUCCESS; });
    });
}

}  // namespace emu::driver
