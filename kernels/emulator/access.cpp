// Checks of single accesses: bounds, unwritten bytes, copies in flight, races. Shared memory and global memory.
#include <algorithm>
#include <cstring>

#include "block.h"

namespace emu {

static const char* name_of(Access kind) {
    switch (kind) {
        case Access::read: return "read";
        case Access::write: return "write";
        case Access::atomic: return "atomic";
    }
    return "access";
}

static std::string sized(Access kind, uint32_t bytes) {
    return std::string(name_of(kind)) + " of " + std::to_string(bytes) + " bytes";
}

void Block::race(const Conflict& conflict, Access kind, const std::string& place, Site site) {
    const char* earlier = conflict.with_write ? "write" : "read";
    find("race", std::string(name_of(kind)) + " of " + place + " is not ordered after the " + earlier + " by " +
                     clocks.name(conflict.thread), site, site_of(conflict.site));
}

void* Block::shared_array(const void* key, uint32_t bytes, uint32_t alignment, Site site) {
    for (const SharedArray& a : arrays) {
        if (a.key == key) return arena + a.offset;
    }
    // A gap of at least 16 bytes that nothing may touch.
    constexpr uint32_t GAP = 16;
    const uint32_t step = alignment > GAP ? alignment : GAP;
    const uint32_t offset = (arena_used + GAP + step - 1) & ~(step - 1);
    static_bytes += bytes;
    if (static_bytes > MAX_STATIC_SHARED || static_bytes + work->dynamic_shared > MAX_SHARED || offset + bytes > arena_bytes) {
        fail("launch", "the block's shared arrays need more memory than a block can have", site);
    }
    arrays.push_back({key, offset, bytes});
    arena_used = offset + bytes;
    memset(arena + offset, POISON, bytes);
    if (is_checked()) std::fill_n(shared_state.begin() + offset, bytes, Byte::unwritten);
    return arena + offset;
}

void Block::touch_shared(uint32_t offset, uint32_t bytes, Access kind, Site site) {
    if (offset > arena_used || bytes > arena_used - offset) {
        fail("bounds", sized(kind, bytes) + " outside of shared memory, at byte " + std::to_string(offset) + " of " +
                           std::to_string(arena_used), site);
    }
    if (!is_checked()) return;
    const std::string place = "shared byte " + std::to_string(offset);
    bool is_unwritten = false;
    for (uint32_t i = offset; i < offset + bytes; i++) {
        switch (shared_state[i]) {
            case Byte::outside: fail("bounds", sized(kind, bytes) + " outside of every shared array, at " + place, site);
            case Byte::in_flight:
                return find("copy", sized(kind, bytes) + " at " + place + ", where a copy is in flight", site);
            case Byte::unwritten: is_unwritten = true; break;
            case Byte::written: break;
        }
    }
    if (is_unwritten && kind != Access::write) find("uninitialised", sized(kind, bytes) + " at " + place, site);
    if (kind != Access::read) std::fill_n(shared_state.begin() + offset, bytes, Byte::written);
    const Conflict conflict = shared_cells.touch(offset, bytes, kind, running->thread, offset_of(site), clocks);
    if (conflict.found) race(conflict, kind, place, site);
}

void Block::launch_copy(uint32_t offset, uint32_t bytes, Site site) {
    // The copy may write at any time from now on: it is ordered as a write of its issuer.
    touch_shared(offset, bytes, Access::write, site);
    memset(arena + offset, POISON, bytes);
    if (is_checked()) std::fill_n(shared_state.begin() + offset, bytes, Byte::in_flight);
}

void Block::land_copy(uint32_t offset, uint32_t bytes, uint32_t thread, uint32_t clock, Site site) {
    if (!is_checked()) return;
    std::fill_n(shared_state.begin() + offset, bytes, Byte::written);
    shared_cells.own(offset, bytes, thread, clock, offset_of(site));
}

void Block::read_shared_by(uint32_t unit, uint32_t offset, uint32_t bytes, const char* what, Site site) {
    const std::string place = std::string(what) + " shared byte " + std::to_string(offset);
    if (offset > arena_used || bytes > arena_used - offset) {
        fail("bounds", place + ", past the end of shared memory", site);
    }
    if (!is_checked()) return;
    const auto first = shared_state.begin() + offset, end = first + bytes;
    if (std::find(first, end, Byte::outside) != end) fail("bounds", place + ", outside of every shared array", site);
    if (std::find(first, end, Byte::in_flight) != end) return find("copy", place + ", where a copy is in flight", site);
    if (std::find(first, end, Byte::unwritten) != end) find("uninitialised", place + ", which nothing wrote", site);
    const Conflict conflict = shared_cells.touch(offset, bytes, Access::read, unit, offset_of(site), clocks);
    if (conflict.found) return race(conflict, Access::read, "shared byte " + std::to_string(offset), site);
    const Conflict unfenced = shared_cells.unfenced(offset, bytes, unit, clocks);
    if (unfenced.found) {
        find("proxy", place + ", written by " + clocks.name(unfenced.thread) + ", which has not fenced the asynchronous proxy "
                      "since", site, site_of(unfenced.site));
    }
}

// Registers lie on the thread's stack. Those that products in flight will write must not be touched.
void Block::touch_own_stack(uintptr_t address, uint32_t bytes, Access kind, Site site) {
    const uint32_t t = running->thread;
    for (const Accumulators& sum : warpgroups[t / WARPGROUP].sums) {
        const auto start = uintptr_t(sum.registers[t % WARPGROUP]);
        if (address + bytes > start && address < start + sum.n / 2 * sizeof(float)) {
            find("wgmma", sized(kind, bytes) + " of an accumulator whose product has not been waited for", site);
        }
    }
}

Allocation& Block::allocation(uint64_t address, uint32_t bytes, Access kind, Site site) {
    if (!last_allocation || !last_allocation->holds(address, bytes)) {
        Allocation* a = work->memory->find(address);
        if (!a || !a->holds(address, bytes)) {
            fail("bounds", sized(kind, bytes) + " of global memory " + work->memory->near(address), site);
        }
        last_allocation = a;
    }
    return *last_allocation;
}

void Block::touch_by_engine(uint64_t address, uint32_t bytes, Access kind, Site site) {
    Allocation& a = allocation(address, bytes, kind, site);
    if (!is_checked()) return;
    touch_global(a, address, bytes, kind, site);
    if (kind != Access::read) return;
    for (uint64_t at = (address - a.address) / 2; at * 2 < address - a.address + bytes; at++) {
        const GlobalCell& cell = a.cells[at];
        if (cell.writer && cell.writer_block == block_number && !clocks.is_fenced(cell.writer, running->thread)) {
            return find("proxy", "the copy engine reads byte " + std::to_string(at * 2) + " of an allocation of " +
                                     std::to_string(a.bytes) + " bytes, written by " + clocks.name(Stamp::thread(cell.writer)) +
                                     ", which has not fenced the asynchronous proxy since", site, site_of(cell.writer_site));
        }
    }
}

void Block::mark_global(uint64_t address, uint32_t bytes, Byte state) {
    if (Allocation* a = work->memory->find(address)) a->mark(address, bytes, state);
}

bool Block::can_read(const void* pointer, uint32_t bytes) {
    const uintptr_t address = uintptr_t(pointer);
    if (stacks.holds(address)) return stacks.owner(address) == running->thread;
    const Allocation* a = work->memory->find(address);
    return a && a->holds(address, bytes);
}

void Block::touch(const void* pointer, uint32_t bytes, Access kind, Site site) {
    const uintptr_t address = uintptr_t(pointer);
    if (in_shared(address)) {
        counters->note_shared(running->thread, site, uint32_t(address - uintptr_t(arena)), bytes);
        return touch_shared(uint32_t(address - uintptr_t(arena)), bytes, kind, site);
    }
    if (stacks.holds(address)) {
        if (stacks.owner(address) == running->thread) return touch_own_stack(address, bytes, kind, site);
        fail("bounds", sized(kind, bytes) + " of another thread's local memory", site);
    }
    // Constants of the module may be read.
    if (kind == Access::read && address >= work->module_start && address < work->module_end) return;
    Allocation& a = allocation(address, bytes, kind, site);
    if (address & (bytes - 1)) fail("alignment", sized(kind, bytes) + " at an address that is no multiple of it", site);
    counters->note_global(running->thread, site, address, bytes);
    if (is_checked()) touch_global(a, address, bytes, kind, site);
}

// Blocks of a launch are unordered, so anything of another block is a race. Of the readers only the last is kept:
// global memory is large, and its races are nearly always between writes.
void Block::touch_global(Allocation& a, uint64_t address, uint32_t bytes, Access kind, Site site) {
    if (a.launch != work->number) {
        a.cells.assign(a.bytes / 2 + 1, GlobalCell{});
        a.launch = work->number;
    }
    const uint64_t offset = address - a.address;
    const std::string place = "byte " + std::to_string(offset) + " of an allocation of " + std::to_string(a.bytes) + " bytes";
    if (memchr(&a.state[offset], int(Byte::in_flight), bytes)) {
        return find("copy", sized(kind, bytes) + " at " + place + ", where a tile store is in flight", site);
    }
    if (kind != Access::write && memchr(&a.state[offset], int(Byte::unwritten), bytes)) {
        find("uninitialised", sized(kind, bytes) + " at " + place, site);
    }
    if (kind != Access::read) a.mark(address, bytes, Byte::written);
    Conflict conflict;
    const uint32_t me = running->thread;
    for (uint64_t at = offset & ~uint64_t(1); at < offset + bytes; at += 2) {
        GlobalCell& cell = a.cells[at / 2];
        const uint32_t mask = (at >= offset ? 1 : 0) | (at + 1 < offset + bytes ? 2 : 0);
        const uint32_t stamp = Stamp::pack(me, clocks.now(me), mask, kind == Access::atomic);
        auto clashes = [&](uint32_t other, uint32_t block) {
            return other && (Stamp::bytes(other) & mask) && (block != block_number || !clocks.is_before(other, me)) &&
                   !(kind == Access::atomic && Stamp::is_atomic(other));
        };
        if (clashes(cell.writer, cell.writer_block)) conflict = {true, true, Stamp::thread(cell.writer), cell.writer_site};
        if (kind == Access::read) {
            cell.reader = stamp;
            cell.reader_block = block_number;
            cell.reader_site = offset_of(site);
        } else {
            if (clashes(cell.reader, cell.reader_block)) {
                conflict = {true, false, Stamp::thread(cell.reader), cell.reader_site};
            }
            cell = {stamp, 0, offset_of(site), 0, block_number, 0};
        }
    }
    if (conflict.found) race(conflict, kind, place, site);
}

}  // namespace emu
