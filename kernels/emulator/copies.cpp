// Asynchronous copies and mbarriers. A copy poisons its destination when it is issued and acts as late as it may.
#include <algorithm>
#include <cstring>

#include "instructions.h"

#define SITE __builtin_return_address(0)

namespace emu {

constexpr uint32_t CHUNK = 16;

void copy_async(uint32_t to, const void* from, uint32_t bytes) {
    Block& block = *executing();
    const Site site = SITE;
    if (to % CHUNK || (bytes && uintptr_t(from) % CHUNK)) {
        block.fail("alignment", "cp.async of 16 bytes at an address that is no multiple of 16", site);
    }
    if (bytes > CHUNK) block.fail("bounds", "cp.async reads more than it writes", site);
    // What is read is read later, but must exist and be ready now.
    if (bytes && bytes < CHUNK) {
        for (uint32_t i = 0; i < bytes; i++) block.touch(static_cast<const uint8_t*>(from) + i, 1, Access::read, site);
    } else if (bytes) {
        block.touch(from, CHUNK, Access::read, site);
    }
    block.launch_copy(to, CHUNK, site);
    block.current().copies.push_back({to, bytes, from, site});
}

void copy_commit() {
    Fibre& self = executing()->current();
    self.groups.push_back(self.copies.size());
}

void copy_wait(uint32_t groups_left) {
    Block& block = *executing();
    Fibre& self = block.current();
    if (self.groups.size() <= groups_left) return;
    const size_t groups = self.groups.size() - groups_left, copies = self.groups[groups - 1];
    for (size_t i = 0; i < copies; i++) {
        const PendingCopy& c = self.copies[i];
        uint8_t* to = block.arena_start() + c.to;
        memcpy(to, c.from, c.bytes);
        memset(to + c.bytes, 0, CHUNK - c.bytes);
        const uint32_t now = block.is_checked() ? block.clock().now(self.thread) : 0;
        block.land_copy(c.to, CHUNK, self.thread, now, c.site);
    }
    self.copies.erase(self.copies.begin(), self.copies.begin() + long(copies));
    self.groups.erase(self.groups.begin(), self.groups.begin() + long(groups));
    for (size_t& end : self.groups) end -= copies;
}

static Mbarrier& find_mbarrier(Block& block, uint32_t address, Site site) {
    const auto entry = block.mbarriers.find(address);
    if (entry == block.mbarriers.end()) {
        block.fail("mbarrier", "no mbarrier was initialised at shared byte " + std::to_string(address), site);
    }
    return entry->second;
}

static void complete_phase(Block& block, Mbarrier& m) {
    if (m.pending != 0 || m.bytes != 0) return;
    m.completed = m.clock;
    m.phase ^= 1;
    m.pending = m.arrivals;
    auto passes = [&](const auto& waiter) { return waiter.second != m.phase; };
    for (const auto& waiter : m.waiting) {
        if (passes(waiter)) block.ready(*waiter.first);
    }
    m.waiting.erase(std::remove_if(m.waiting.begin(), m.waiting.end(), passes), m.waiting.end());
}

void mbarrier_init(uint32_t address, uint32_t arrivals) {
    Block& block = *executing();
    const Site site = SITE;
    if (address % 8) block.fail("alignment", "an mbarrier's address is no multiple of 8", site);
    if (arrivals == 0) block.fail("mbarrier", "an mbarrier expects at least one arrival", site);
    block.touch_shared(address, 8, Access::write, site);
    block.mbarriers[address] = {arrivals, arrivals, 0, 0, block.current().thread, false, {}, {}, {}};
}

static void make_mbarriers_known(Block& block) {
    for (auto& [address, m] : block.mbarriers) m.is_known |= m.thread == block.current().thread;
}

void mbarrier_init_fence() { make_mbarriers_known(*executing()); }

void async_proxy_fence() {
    Block& block = *executing();
    make_mbarriers_known(block);
    if (block.is_checked()) block.clock().fence(block.current().thread);
}

void mbarrier_arrive(uint32_t address, uint32_t expected_bytes) {
    Block& block = *executing();
    const Site site = SITE;
    Mbarrier& m = find_mbarrier(block, address, site);
    if (m.pending == 0) block.fail("mbarrier", "more arrivals than the mbarrier expects", site);
    m.bytes += expected_bytes;
    m.pending--;
    if (block.is_checked()) block.clock().release(block.current().thread, m.clock);
    complete_phase(block, m);
}

void mbarrier_wait(uint32_t address, uint32_t parity) {
    Block& block = *executing();
    const Site site = SITE;
    Mbarrier& m = find_mbarrier(block, address, site);
    if (m.phase == parity) {
        m.waiting.push_back({&block.current(), parity});
        block.wait("an mbarrier", site);
    }
    if (block.is_checked()) block.clock().acquire(block.current().thread, m.completed);
}

void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier) {
    Block& block = *executing();
    const Site site = SITE;
    if (to % CHUNK || uintptr_t(from) % CHUNK || bytes % CHUNK || bytes == 0) {
        block.fail("alignment", "cp.async.bulk: addresses and size are multiples of 16", site);
    }
    for (uint32_t i = 0; i < bytes; i += CHUNK) {
        block.touch_by_engine(uint64_t(from) + i, CHUNK, Access::read, site);
    }
    issue_copy(block, {to, bytes, mbarrier, from, {}, {}, site, block.current().thread, {}});
}

void issue_copy(Block& block, BulkCopy copy) {
    if (!find_mbarrier(block, copy.mbarrier, copy.site).is_known) {
        block.find("proxy", "the copy engine uses an mbarrier whose initialisation was not fenced", copy.site);
    }
    block.launch_copy(copy.to, copy.bytes, copy.site);
    if (block.is_checked()) {
        const uint32_t* v = block.clock().of(copy.issuer);
        copy.clock.assign(v, v + block.clock().width());
    }
    block.engine.push_back(std::move(copy));
}

bool run_engine(Block& block) {
    if (block.engine.empty()) return false;
    const size_t choice = block.launch().seed ? block.random() % block.engine.size() : 0;
    const BulkCopy copy = std::move(block.engine[choice]);
    block.engine.erase(block.engine.begin() + long(choice));
    if (copy.from) memcpy(block.arena_start() + copy.to, copy.from, copy.bytes);
    else land_tile(block, copy);
    Mbarrier& m = block.mbarriers[copy.mbarrier];
    if (block.is_checked()) {
        const uint32_t step = block.clock().engine_step();
        block.land_copy(copy.to, copy.bytes, block.clock().engine(), step, copy.site);
        m.clock.resize(block.clock().width(), 0);
        for (size_t i = 0; i < copy.clock.size(); i++) m.clock[i] = std::max(m.clock[i], copy.clock[i]);
        m.clock[block.clock().engine()] = std::max(m.clock[block.clock().engine()], step);
    }
    m.bytes -= copy.bytes;
    complete_phase(block, m);
    return true;
}

}  // namespace emu
