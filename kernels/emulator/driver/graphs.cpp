// Capture of streams into graphs, and graphs as one piece of a stream's work.
#include <queue>

#include "driver.h"

namespace emu::driver {

// An order of the nodes that keeps every dependency and otherwise takes the latest first: work that lacks a
// dependency on earlier work runs before it.
static std::vector<size_t> latest_first(const std::vector<Node>& nodes) {
    std::vector<size_t> missing(nodes.size(), 0), order;
    std::vector<std::vector<size_t>> followers(nodes.size());
    std::priority_queue<size_t> ready;
    for (size_t i = 0; i < nodes.size(); i++) {
        missing[i] = nodes[i].after.size();
        for (size_t before : nodes[i].after) followers[before].push_back(i);
        if (!missing[i]) ready.push(i);
    }
    while (!ready.empty()) {
        const size_t i = ready.top();
        ready.pop();
        order.push_back(i);
        for (size_t follower : followers[i]) {
            if (--missing[follower] == 0) ready.push(follower);
        }
    }
    return order;
}

// Whether every node comes before the end of the stream that began the capture.
static bool is_joined(const Capture& capture) {
    std::vector<bool> is_reached(capture.nodes.size(), false);
    std::vector<size_t> open = capture.origin->tail;
    size_t reached = 0;
    while (!open.empty()) {
        const size_t i = open.back();
        open.pop_back();
        if (is_reached[i]) continue;
        is_reached[i] = true;
        reached++;
        open.insert(open.end(), capture.nodes[i].after.begin(), capture.nodes[i].after.end());
    }
    return reached == capture.nodes.size();
}

DRIVER_API cuStreamBeginCapture_v2(CUstream handle, CaptureMode mode) {
    return call(Needs::handle, [&](State& state) {
        const auto stream = state.stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        if (stream == state.null_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
        if (mode > CAPTURE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
        stream->capture.reset(new Capture{stream.get(), mode, std::this_thread::get_id(), {}});
        stream->tail.clear();
        state.captures.push_back(stream->capture);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    return call(Needs::handle, [&](State& state) {
        *graph = nullptr;
        const auto stream = state.stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        const auto capture = stream->capture;
        if (!capture) return CUDA_ERROR_ILLEGAL_STATE;
        CUresult result = CUDA_SUCCESS;
        if (capture->is_invalid) result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        else if (capture->origin != stream.get()) result = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
        else if (capture->mode != CAPTURE_RELAXED && capture->thread != std::this_thread::get_id())
            result = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
        else if (!is_joined(*capture)) result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
        if (result == CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD || result == CUDA_ERROR_STREAM_CAPTURE_UNMATCHED) {
            capture->is_invalid = true;
            return result;
        }
        state.end_capture(capture);
        if (result) return result;
        *graph = state.graphs.add(std::make_shared<Graph>(Graph{std::move(capture->nodes)}));
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuStreamIsCapturing(CUstream handle, CaptureStatus* status) {
    return call(Needs::handle, [&](State& state) {
        const auto stream = state.stream(handle);
        if (!stream) return CUDA_ERROR_INVALID_HANDLE;
        *status = !stream->capture ? CAPTURE_NONE : stream->capture->is_invalid ? CAPTURE_INVALIDATED : CAPTURE_ACTIVE;
        return CUDA_SUCCESS;
    });
}

// Flags speak of allocations in graphs, of which there are none, and of when to upload and launch.
DRIVER_API cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph handle, unsigned long long) {
    return call(Needs::handle, [&](State& state) {
        const auto graph = state.graphs.find(handle);
        if (!graph) return CUDA_ERROR_INVALID_HANDLE;
        auto exec = std::make_shared<GraphExec>();
        for (size_t i : latest_first(graph->nodes)) exec->actions.push_back(graph->nodes[i].act);
        return *out = state.execs.add(std::move(exec)), CUDA_SUCCESS;
    });
}

DRIVER_API cuGraphUpload(CUgraphExec handle, CUstream stream) {
    return call(Needs::handle, [&](State& state) {
        return state.execs.find(handle) && state.stream(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    });
}

DRIVER_API cuGraphLaunch(CUgraphExec handle, CUstream stream_handle) {
    return call(Needs::handle, [&](State& state) {
        const auto exec = state.execs.find(handle);
        const auto stream = state.stream(stream_handle);
        if (!exec || !stream) return CUDA_ERROR_INVALID_HANDLE;
        return state.enqueue(stream, [exec](State& state) {
            for (const Action& action : exec->actions) {
                if (const CUresult error = action(state)) return error;
            }
            return CUDA_SUCCESS;
        });
    });
}

DRIVER_API cuGraphExecDestroy(CUgraphExec handle) {
    return call(Needs::cleanup, [&](State& state) {
        return state.execs.remove(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    });
}

DRIVER_API cuGraphDestroy(CUgraph handle) {
    return call(Needs::cleanup, [&](State& state) {
        return state.graphs.remove(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    });
}

}  // namespace emu::driver
