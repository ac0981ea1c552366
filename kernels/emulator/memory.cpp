#include "memory.h"

#include <cstring>
#include <new>

namespace emu {

constexpr uint64_t GUARD = 512;         // bytes on either side
constexpr uint64_t ALIGNMENT = 512;     // cuMemAlloc gives at least 256
constexpr uint8_t GUARD_BYTE = 0xab;
constexpr uint64_t KEPT_FREED = 64 << 20;

void Allocation::mark(uint64_t a, uint64_t n, Byte b) {
    if (!state.empty()) memset(&state[a - address], int(b), n);
}

bool Allocation::damage(int64_t* offset) const {
    const auto* start = reinterpret_cast<const uint8_t*>(address);
    for (uint64_t i = 1; i <= GUARD; i++) {
        if (start[-int64_t(i)] != GUARD_BYTE) return *offset = -int64_t(i), true;
    }
    for (uint64_t i = 0; i < GUARD; i++) {
        if (start[bytes + i] != GUARD_BYTE) return *offset = int64_t(bytes + i), true;
    }
    return false;
}

uint64_t Memory::allocate(uint64_t bytes) {
    if (bytes == 0 || bytes > capacity - used) return 0;
    const uint64_t size = bytes + 2 * GUARD + ALIGNMENT;
    Allocation a;
    a.storage.reset(new (std::nothrow) uint8_t[size]);
    if (!a.storage) return 0;
    a.address = (uint64_t(a.storage.get()) + GUARD + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    a.bytes = bytes;
    auto* start = reinterpret_cast<uint8_t*>(a.address);
    memset(start - GUARD, GUARD_BYTE, GUARD);
    memset(start, POISON, bytes);
    memset(start + bytes, GUARD_BYTE, GUARD);
    if (is_checked) a.state.assign(bytes, Byte::unwritten);
    used += bytes;
    const uint64_t address = a.address;
    table.emplace(address, std::move(a));
    return address;
}

bool Memory::release(uint64_t address) {
    const auto entry = table.find(address);
    if (entry == table.end()) return false;
    Allocation& a = entry->second;
    used -= a.bytes;
    memset(reinterpret_cast<void*>(a.address), POISON, a.bytes);
    a.state = {};
    a.cells = {};
    freed_bytes += a.bytes;
    freed.push_back(std::move(a));
    table.erase(entry);
    while (freed_bytes > KEPT_FREED) {
        freed_bytes -= freed.front().bytes;
        freed.pop_front();
    }
    return true;
}

Allocation* Memory::find(uint64_t address) {
    auto entry = table.upper_bound(address);
    if (entry == table.begin()) return nullptr;
    --entry;
    return entry->second.holds(address, 1) ? &entry->second : nullptr;
}

std::string Memory::near(uint64_t address) const {
    auto text = [](const Allocation& a, uint64_t distance, const char* side) {
        return std::to_string(distance) + " bytes " + side + " an allocation of " + std::to_string(a.bytes) + " bytes";
    };
    for (const Allocation& a : freed) {
        if (a.holds(address, 1)) return "inside an allocation of " + std::to_string(a.bytes) + " bytes that was freed";
    }
    auto after = table.upper_bound(address);
    std::string best = "far from every allocation";
    uint64_t distance = 1 << 20;
    if (after != table.end() && after->first - address < distance) {
        distance = after->first - address;
        best = text(after->second, distance, "before the start of");
    }
    if (after != table.begin()) {
        const Allocation& a = (--after)->second;
        if (address - (a.address + a.bytes) < distance) best = text(a, address - (a.address + a.bytes), "past the end of");
    }
    return best;
}

}  // namespace emu
