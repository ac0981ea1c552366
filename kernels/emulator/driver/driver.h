// The stand-in driver's state. One device, its primary context, and lazy streams: work runs only when something
// synchronises, so that a host program which forgets to wait gets wrong data every time.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "../api.h"
#include "cuda.h"

#define DRIVER_API extern "C" __attribute__((visibility("default"))) CUresult

namespace emu::driver {

struct State;
struct Stream;

// Something the device does at its turn.
using Action = std::function<CUresult(State&)>;

// A graph under construction by one or more streams.
struct Node {
    Action act;
    std::vector<size_t> after;           // nodes it follows
};

struct Capture {
    Stream* origin;
    CaptureMode mode;
    std::thread::id thread;
    std::vector<Node> nodes;
    bool is_invalid = false, is_over = false;
};

// A part of a stream's work: first another stream's work up to a position, then an action. Either may be missing.
struct Piece {
    std::shared_ptr<Stream> other;
    uint64_t position = 0;
    Action act;
};

struct Stream {
    bool is_blocking = false;            // ordered with the legacy null stream
    std::deque<Piece> pieces;
    uint64_t issued = 0, done = 0;       // positions count pieces from 1
    std::shared_ptr<Capture> capture;
    std::vector<size_t> tail;            // in a capture: the nodes that the next one follows
};

struct Event {
    bool has_timing = false;
    std::shared_ptr<Stream> stream;      // where it was recorded last; null before
    uint64_t position = 0;
    double time = 0;
    std::shared_ptr<Capture> capture;    // when it was recorded in one
    std::vector<size_t> tail;

    bool is_done() const { return !stream || stream->done >= position; }
};

struct Graph {
    std::vector<Node> nodes;
};

struct GraphExec {
    std::vector<Action> actions;         // in the order they run
};

struct Function {
    EmuModule* module;
    std::string name;
    std::vector<uint32_t> sizes;         // of its parameters
    uint32_t max_dynamic_shared = 48 * 1024;
};

struct Module {
    EmuModule* image;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

// Live objects by their handles, so that a handle of something destroyed is an error.
template <class T> class Handles {
  public:
    void* add(std::shared_ptr<T> object) {
        void* handle = object.get();
        live.emplace(handle, std::move(object));
        return handle;
    }
    std::shared_ptr<T> find(void* handle) const {
        const auto entry = live.find(handle);
        return entry == live.end() ? nullptr : entry->second;
    }
    bool remove(void* handle) { return live.erase(handle) != 0; }
    const std::map<void*, std::shared_ptr<T>>& all() const { return live; }

  private:
    std::map<void*, std::shared_ptr<T>> live;
};

// The primary context. It lives from the first retain to the last release, and a new one starts afresh.
struct State {
    explicit State(const EmuSettings& settings) : settings(settings), device(emu_device_open(&settings)) {}
    ~State();

    // The stream of a handle, or null. Handles 0 and 1 are the legacy null stream.
    std::shared_ptr<Stream> stream(CUstream handle) const;
    // Puts work at the end of a stream, or into the graph that it captures.
    CUresult enqueue(const std::shared_ptr<Stream>& stream, Action act);
    // Runs a stream up to a position, and whatever it waits for.
    CUresult run(Stream& stream, uint64_t position);
    CUresult run(Stream& stream) { return run(stream, stream.issued); }
    CUresult run_all();
    // An action now, timed. Its error is the context's from then on.
    CUresult act(const Action& action);
    // Whether bytes lie in pinned memory of the host.
    bool is_pinned(const void* start, size_t bytes) const;
    // Why a call that could disturb a capture must not be made now; the capture is lost by it.
    CUresult refuse_in_capture();
    CUresult refuse_on(Stream& stream);
    void end_capture(std::shared_ptr<Capture> capture);

    const EmuSettings settings;
    EmuDevice* const device;
    CUresult error = CUDA_SUCCESS;       // sticky
    double busy = 0;                     // seconds that actions took: the device's clock
    std::shared_ptr<Stream> null_stream = std::make_shared<Stream>();
    Handles<Stream> streams;
    std::vector<std::shared_ptr<Stream>> orphans;   // destroyed with work left
    std::vector<std::shared_ptr<Capture>> captures;
    Handles<Event> events;
    Handles<Graph> graphs;
    Handles<GraphExec> execs;
    Handles<Module> modules;
    std::map<void*, Function*> functions;
    std::map<uintptr_t, std::unique_ptr<uint8_t[]>> pinned_storage;
    std::map<uintptr_t, size_t> pinned;
};

// One lock for everything: the driver may be called from any thread.
std::mutex& lock();
// The live primary context, or null.
State* primary();
// Whether cuInit was called, and whether the calling thread has made the context its own.
bool is_initialised();
bool is_current();

// Notes what went wrong, for the host program to fetch, and returns `error`.
CUresult note(CUresult error, const std::string& text);
void count_launch(const EmuCounters& counters);
// Blocks of a shape that the whole device runs at once.
int resident_blocks(int threads, size_t dynamic_shared);

enum class Needs {
    handle,     // a live context, whichever thread calls
    context,    // a live context that is current
    cleanup,    // as `handle`, and runs after an error too
};

// Every entry point: takes the lock, checks the context and its sticky error, runs `body` with the state.
template <class Body> CUresult call(Needs needs, Body body) {
    try {
        std::lock_guard<std::mutex> guard(lock());
        if (!is_initialised()) return CUDA_ERROR_NOT_INITIALIZED;
        if (needs == Needs::context && !is_current()) return CUDA_ERROR_INVALID_CONTEXT;
        State* state = primary();
        if (!state) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
        if (state->error && needs != Needs::cleanup) return state->error;
        const CUresult result = body(*state);
        return state->error ? state->error : result;
    } catch (const std::bad_alloc&) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
}

}  // namespace emu::driver
