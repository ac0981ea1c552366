// The happens-before race detector: vector clocks of a block's threads, and who touched each piece of memory last.
//
// A thread's own clock advances when it releases something to others (a barrier, an mbarrier arrival). An access is
// ordered before a thread's next step when that thread's vector has reached the accessing thread's clock. Shuffles,
// votes and matrix instructions order nothing, as the programming model says.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace emu {

enum class Access { read, write, atomic };

// Thread, clock, which bytes of the 2-byte cell, and whether the access was atomic, in 32 bits; 0 is no access.
struct Stamp {
    static constexpr uint32_t THREAD_BITS = 11, CLOCK_BITS = 17;
    static constexpr uint32_t MANY = 1u << 31;   // the rest is an index of a vector of readers' clocks

    static uint32_t pack(uint32_t thread, uint32_t clock, uint32_t bytes, bool is_atomic) {
        return thread | clock << THREAD_BITS | bytes << 28 | uint32_t(is_atomic) << 30;
    }
    static uint32_t thread(uint32_t s) { return s & ((1u << THREAD_BITS) - 1); }
    static uint32_t clock(uint32_t s) { return s >> THREAD_BITS & ((1u << CLOCK_BITS) - 1); }
    static uint32_t bytes(uint32_t s) { return s >> 28 & 3; }
    static bool is_atomic(uint32_t s) { return s >> 30 & 1; }
};

// One vector a thread, and one for each unit that acts on its own behind an instruction: the copy engine as it loads,
// each warpgroup's tensor cores, and the copy engine as it stores for a warp. A unit knows what its issuers knew.
class Clocks {
  public:
    void reset(uint32_t threads);
    uint32_t width() const { return columns; }
    bool is_thread(uint32_t unit) const { return unit < threads; }
    uint32_t* of(uint32_t thread) { return &values[size_t(thread) * columns]; }
    uint32_t now(uint32_t thread) { return of(thread)[thread]; }
    // Everything any of them did is before everything any of them does next.
    void meet(const uint32_t* threads, uint32_t count);
    // Makes what `thread` did so far part of `into`, and starts its next step.
    void release(uint32_t thread, std::vector<uint32_t>& into);
    void acquire(uint32_t thread, const std::vector<uint32_t>& from);
    // The engine's next step, with everything its issuer knew.
    uint32_t engine_step();
    uint32_t engine() const { return threads; }
    uint32_t tensor_cores(uint32_t warpgroup) const { return threads + 1 + warpgroup; }
    uint32_t store_engine(uint32_t warp) const { return threads + 1 + (threads + 127) / 128 + warp; }
    std::string name(uint32_t unit) const;
    // The next step of a unit that acts for all of these threads: it knows what every one of them knows.
    uint32_t begin(uint32_t unit, const uint32_t* issuers, uint32_t count);
    // The thread knows that the unit has ended this step.
    void finish(uint32_t thread, uint32_t unit, uint32_t step);
    // The thread's writes so far become visible to the asynchronous proxy.
    void fence(uint32_t thread);
    // Whether a write's thread has fenced it, and `unit` knows that.
    bool is_fenced(uint32_t stamp, uint32_t unit);
    // Whether a stamp of this block is ordered before the present of `thread`.
    bool is_before(uint32_t stamp, uint32_t thread) {
        const uint32_t by = Stamp::thread(stamp);
        return by == thread || Stamp::clock(stamp) <= of(thread)[by];
    }
    // A clock that no longer fits a stamp: the kernel synchronises too often to be checked.
    bool overflowed() const { return is_full; }

  private:
    void advance(uint32_t thread);
    uint32_t threads = 0, columns = 0, engine_clock = 0;
    bool is_full = false;
    std::vector<uint32_t> values, joined;
    std::vector<std::vector<uint32_t>> fences;   // of each thread, the clocks at which it fenced
};

// Shared memory: a cell per 2 bytes, with every reader since the last write.
struct SharedCell {
    uint32_t writer, writer_site;
    uint32_t reader, reader_site;   // or a vector of readers
    uint32_t second, second_site;   // a second reader: two warpgroups share an operand
};

struct Conflict {
    bool found = false;
    bool with_write = false;    // the earlier access wrote
    uint32_t thread = 0, site = 0;
};

class SharedCells {
  public:
    void reset(uint32_t bytes);
    Conflict touch(uint32_t offset, uint32_t bytes, Access kind, uint32_t thread, uint32_t site, Clocks& clocks);
    // The bytes belong to a write of `thread` at its present time: the end of an asynchronous copy.
    void own(uint32_t offset, uint32_t bytes, uint32_t thread, uint32_t clock, uint32_t site);
    // The first write to the bytes that its thread has not fenced before `unit` looks.
    Conflict unfenced(uint32_t offset, uint32_t bytes, uint32_t unit, Clocks& clocks);

  private:
    void note_reader(SharedCell& cell, uint32_t stamp, uint32_t site, uint32_t thread, Clocks& clocks);
    std::vector<SharedCell> cells;
    std::vector<uint32_t> readers;   // vectors of clocks, `width` each
    std::vector<uint32_t> free_readers;
};

}  // namespace emu
