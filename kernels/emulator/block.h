// One thread block in execution: its fibres, its shared memory, and everything that waits.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "counters.h"
#include "device.h"
#include "fibre.h"
#include "memory.h"
#include "races.h"
#include "report.h"
#include "tile_map.h"

namespace emu {

constexpr uint32_t WARP = 32;
constexpr uint32_t WARPGROUP = 128;
constexpr uint32_t MAX_THREADS = 1024;
constexpr uint32_t MAX_SHARED = 227 * 1024;          // a block's opt-in limit on sm_90
constexpr uint32_t MAX_STATIC_SHARED = 48 * 1024;

// A 16-byte copy that was issued and has not acted yet.
struct PendingCopy {
    uint32_t to, bytes;
    const void* from;
    Site site;
};

// A tile store: reads shared memory and writes global memory as late as its waits allow.
struct TileStore {
    TileMap map;
    std::array<int32_t, MAX_RANK> at;
    uint32_t from, step;
    Site site;
    bool has_read;
    std::vector<uint8_t> bytes;        // what it read
};

struct Fibre {
    void* stack_pointer = nullptr;
    uint3 index{};
    uint32_t thread = 0;               // linear index in the block
    bool is_done = false;
    const char* waits_for = nullptr;
    Site waits_at = nullptr;
    std::vector<PendingCopy> copies;   // in issue order
    std::vector<size_t> groups;        // copies before the end of each committed group that has not been waited for
    std::vector<TileStore> stores;     // in issue order
    std::vector<size_t> store_groups;  // stores before the end of each committed group
};

// Threads that gather until all are there; the last to arrive acts for all.
struct Meeting {
    const char* what = nullptr;
    Site site = nullptr;
    uint32_t mask = 0, arrived = 0;    // lanes, for a warp's meeting
    std::vector<uint32_t> threads;     // in order of arrival
    std::array<void*, WARP> arguments{};
    // For a named barrier: threads that arrived and did not stay, and what they had done.
    uint32_t gone = 0;
    std::vector<uint32_t> clock;
};

struct Warp {
    std::array<Meeting, 32> meetings;   // at most one per lane is open
    uint32_t alive = 0;
};

// The accumulators of a warpgroup while products into them are in flight. The registers hold NaN meanwhile.
struct Accumulators {
    std::array<float*, WARPGROUP> registers;
    uint32_t n, in_flight;
    std::vector<float> values;         // (64,n)
};

// A wgmma that was issued and has not acted yet.
struct Product {
    Half type;
    uint32_t n;
    bool accumulates, a_is_mn, b_is_mn, a_in_registers;
    uint64_t a, b;                     // descriptors
    std::vector<float> fragment;       // (64,16) from registers
    Accumulators* sum;
    uint32_t step;
    Site site;
};

struct Warpgroup {
    Meeting meeting;
    std::array<void*, WARPGROUP> arguments{};
    uint32_t alive = 0;
    bool is_fenced = false;            // since registers came back, or since the start
    uint32_t registers = 0;            // as setmaxnreg set them; 0 as launched
    std::deque<Product> products;      // in issue order
    std::deque<size_t> groups;         // products before the end of each committed group
    std::list<Accumulators> sums;
};

struct Mbarrier {
    uint32_t arrivals, pending, phase;
    int64_t bytes;                     // expected and not yet copied
    uint32_t thread;                   // that initialised it
    bool is_known;                     // to the copy engine, by a fence
    std::vector<uint32_t> clock;       // what arrivals had done
    std::vector<uint32_t> completed;   // the same, of completed phases
    std::vector<std::pair<Fibre*, uint32_t>> waiting;
};

// A copy of the engine's to shared memory: a run of bytes, or a tile when `from` is null.
struct BulkCopy {
    uint32_t to, bytes, mbarrier;
    const void* from;
    TileMap map;
    std::array<int32_t, MAX_RANK> at;
    Site site;
    uint32_t issuer;
    std::vector<uint32_t> clock;
};

struct SharedArray {
    const void* key;
    uint32_t offset, bytes;
};

// What all blocks of a launch share.
struct Launch {
    const Kernel* kernel;
    const void* const* parameters;
    uint3 grid, block;
    uint32_t dynamic_shared;
    Memory* memory;
    Report* report;
    uint64_t number, seed;
    bool is_checked;
    uintptr_t module_start, module_end;
};

class Block {
  public:
    // Runs one block to its end, or to its first fatal finding. False after a fatal finding.
    bool run(const Launch& launch, uint3 index, Counters& counters);

    // --- for the instructions -------------------------------------------------------------------------------------
    Fibre& current() { return *running; }
    Fibre& fibre(uint32_t thread) { return fibres[thread]; }
    Warp& warp_of(const Fibre& f) { return warps[f.thread / WARP]; }
    Warpgroup& warpgroup_of(const Fibre& f) { return warpgroups[f.thread / WARPGROUP]; }
    std::vector<Warpgroup>& all_warpgroups() { return warpgroups; }
    const Launch& launch() const { return *work; }
    uint3 index() const { return block_index; }
    Counters& count() { return *counters; }
    bool is_checked() const { return work->is_checked; }

    // Notes a finding about the running thread.
    void find(const char* kind, const std::string& message, Site site, Site other = nullptr);
    // The same, and ends the block: never returns.
    [[noreturn]] void fail(const char* kind, const std::string& message, Site site, Site other = nullptr);

    // Suspends the running thread until something makes it ready again.
    void wait(const char* what, Site site);
    void ready(Fibre& f, bool first = false);
    // A barrier of `expected` threads, at one source line unless it is 0 (then all live threads).
    void meet(Meeting& meeting, const char* what, uint32_t expected, Site site);
    // The half of a named barrier that does not wait.
    void arrive(Meeting& meeting, uint32_t expected, Site site);
    // The threads of a completed barrier go on; `self`, which runs already, aside.
    void disperse(Meeting& meeting, const Fibre* self);
    void refuse_other_site(const Meeting& meeting, const char* what, Site site);
    Meeting& barrier(uint32_t id) { return barriers[id]; }
    uint32_t launch_threads() const { return uint32_t(fibres.size()); }

    // --- shared memory ----------------------------------------------------------------------------------------------
    uint8_t* arena_start() { return arena; }
    uint8_t* dynamic_start() { return arena; }
    void* shared_array(const void* key, uint32_t bytes, uint32_t alignment, Site site);
    bool in_shared(uintptr_t p) const { return p - uintptr_t(arena) < arena_bytes; }
    // Checks that the bytes exist (fatal), were written and are not in flight, and that nothing races.
    void touch_shared(uint32_t offset, uint32_t bytes, Access kind, Site site);
    // The bytes of a copy in flight: poisoned, and an error to touch until `land`.
    void launch_copy(uint32_t offset, uint32_t bytes, Site site);
    void land_copy(uint32_t offset, uint32_t bytes, uint32_t thread, uint32_t clock, Site site);
    // A read by a unit that acts on its own, through the asynchronous proxy, from now until it is waited for.
    void read_shared_by(uint32_t unit, uint32_t offset, uint32_t bytes, const char* what, Site site);

    // --- any memory -------------------------------------------------------------------------------------------------
    // An access of the kernel's own code, as the compiler reports it, or of an instruction to global memory.
    void touch(const void* pointer, uint32_t bytes, Access kind, Site site);
    // An access to global memory by the copy engine, for the running thread.
    void touch_by_engine(uint64_t address, uint32_t bytes, Access kind, Site site);
    // Bytes of global memory that a store in flight will write, or has written.
    void mark_global(uint64_t address, uint32_t bytes, Byte state);
    // The bytes of a kernel's parameter or of global memory, for an instruction that reads them at once.
    bool can_read(const void* pointer, uint32_t bytes);
    Clocks& clock() { return clocks; }

    std::unordered_map<uint32_t, Mbarrier> mbarriers;
    std::vector<BulkCopy> engine;
    uint64_t random();

  private:
    static void enter();
    void leave();
    Fibre* pick();
    [[noreturn]] void abandon();
    [[noreturn]] void deadlock();
    void close_meetings_of(Fibre& f);
    void touch_own_stack(uintptr_t address, uint32_t bytes, Access kind, Site site);
    Allocation& allocation(uint64_t address, uint32_t bytes, Access kind, Site site);
    void touch_global(Allocation& a, uint64_t address, uint32_t bytes, Access kind, Site site);
    void race(const Conflict& conflict, Access kind, const std::string& place, Site site);
    Site site_of(uint32_t offset) const { return reinterpret_cast<Site>(work->module_start + offset); }
    uint32_t offset_of(Site site) const { return uint32_t(uintptr_t(site) - work->module_start); }

    const Launch* work = nullptr;
    Counters* counters = nullptr;
    uint3 block_index{};
    uint32_t block_number = 0;
    std::vector<Fibre> fibres;
    std::vector<Warp> warps;
    std::vector<Warpgroup> warpgroups;
    std::array<Meeting, 16> barriers;
    std::deque<Fibre*> queue;
    Stacks stacks;
    Fibre* running = nullptr;
    void* main_stack = nullptr;
    uint32_t live = 0;
    bool is_dead = false;
    uint64_t rng = 0;

    std::vector<uint8_t> arena_storage;
    uint8_t* arena = nullptr;
    uint32_t arena_bytes = 0, arena_used = 0, static_bytes = 0;
    std::vector<Byte> shared_state;
    std::vector<SharedArray> arrays;
    SharedCells shared_cells;
    Clocks clocks;
    Allocation* last_allocation = nullptr;
};

// The block that this OS thread executes, or null outside a launch.
Block* executing();

}  // namespace emu
