// The emulated device's memory: a table of allocations, each between guard bands, poisoned until it is written.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace emu {

constexpr uint8_t POISON = 0xff;  // NaN in every float type

enum class Byte : uint8_t { outside, unwritten, written, in_flight };

// Who touched 2 bytes of global memory last, within one launch.
struct GlobalCell {
    uint32_t writer, reader;              // stamps (see races.h), 0 for none
    uint32_t writer_site, reader_site;    // offsets from the kernel module's first byte
    uint32_t writer_block, reader_block;
};

struct Allocation {
    uint64_t address = 0, bytes = 0;
    std::unique_ptr<uint8_t[]> storage;   // guard, bytes, guard
    std::vector<Byte> state;              // one per byte; only when the device checks
    std::vector<GlobalCell> cells;        // one per 2 bytes, made at the first touch by a launch
    uint64_t launch = 0;                  // the launch that `cells` speak of
    bool guard_reported = false;

    bool holds(uint64_t a, uint64_t n) const { return a >= address && n <= bytes && a - address <= bytes - n; }
    void mark(uint64_t a, uint64_t n, Byte b);
    // The first damaged guard byte's distance from the start of the allocation, or none.
    bool damage(int64_t* offset) const;
};

class Memory {
  public:
    Memory(uint64_t capacity, bool is_checked) : capacity(capacity), is_checked(is_checked) {}
    // 0 when the device's capacity is used up.
    uint64_t allocate(uint64_t bytes);
    bool release(uint64_t address);
    // The allocation that holds the first byte, or null.
    Allocation* find(uint64_t address);
    std::map<uint64_t, Allocation>& all() { return table; }
    uint64_t in_use() const { return used; }
    // "17 bytes past the end of the allocation of 64 bytes at ..": for messages.
    std::string near(uint64_t address) const;

  private:
    std::map<uint64_t, Allocation> table;
    // Freed last. Kept and poisoned for a while, so that their addresses are not given out again at once.
    std::deque<Allocation> freed;
    uint64_t freed_bytes = 0;
    uint64_t capacity, used = 0;
    bool is_checked;
};

}  // namespace emu
