// Tensor maps, and the copy engine's tiles: boxes of a tensor to shared memory and back.
#include <algorithm>
#include <cstring>

#include "api.h"
#include "instructions.h"

#define SITE __builtin_return_address(0)

namespace emu {

constexpr uint32_t CHUNK_BYTES = 16;

// What cuTensorMapEncodeTiled numbers: bytes of an element by data type, and of a swizzle's rows.
constexpr uint8_t ELEMENT_BYTES[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
constexpr uint8_t SWIZZLE_SPANS[] = {0, 32, 64, 128};
constexpr uint32_t FIRST_FLOAT = 6, INTERLEAVE_32 = 2, SWIZZLE_32 = 1;

// The map at `address`, copied now: where it lies may be gone when the copy acts.
static TileMap read_map(Block& block, const void* address, uint32_t rank, Site site) {
    TileMap map{};
    if (uintptr_t(address) % 64) block.fail("alignment", "a tensor map's address is no multiple of 64", site);
    if (!block.can_read(address, 128)) block.fail("bounds", "no tensor map can be read at this address", site);
    memcpy(&map, address, sizeof map);
    if (map.magic != TileMap::MAGIC) block.fail("tile", "these bytes are no encoded tensor map", site);
    if (map.rank != rank) {
        block.fail("tile", "a tile of " + std::to_string(rank) + " dimensions by a map of " + std::to_string(map.rank), site);
    }
    const bool has_strides = std::any_of(map.element_strides, map.element_strides + rank, [](uint8_t s) { return s != 1; });
    if (map.interleave || map.fill || has_strides || (map.span && map.row_bytes() != map.span)) {
        block.fail("tile", "the emulator knows maps without interleave, element strides and NaN fill, whose box is as wide as "
                           "its swizzle", site);
    }
    return map;
}

// Calls each(shared address, global address, first, bytes) for each 16 bytes of the box: bytes from `first` on are inside
// of the tensor; none when `bytes` is 0.
template <class Each> static void walk(const TileMap& map, const int32_t* at, uint32_t shared, Each each) {
    const uint32_t rows = map.box_bytes() / map.row_bytes();
    for (uint32_t row = 0; row < rows; row++) {
        uint64_t address = map.base;
        bool is_inside = true;
        for (uint32_t i = 1, rest = row; i < map.rank; i++) {
            const int64_t place = int64_t(at[i]) + rest % map.box[i];
            rest /= map.box[i];
            is_inside &= place >= 0 && uint64_t(place) < map.dims[i];
            address += uint64_t(place) * map.strides[i - 1];
        }
        const int64_t end = is_inside ? int64_t(map.dims[0]) * map.element_bytes : 0;
        for (uint32_t b = 0; b < map.row_bytes(); b += CHUNK_BYTES) {
            const int64_t start = int64_t(at[0]) * map.element_bytes + b;
            const int64_t first = std::clamp<int64_t>(-start, 0, CHUNK_BYTES);
            const int64_t last = std::clamp<int64_t>(end - start, first, CHUNK_BYTES);
            each(swizzled(shared + row * map.row_bytes() + b, map.span), address + uint64_t(start), uint32_t(first),
                 uint32_t(last - first));
        }
    }
}

// Tiles of global memory: whole chunks at once where they are inside.
static void touch_tile(Block& block, const TileMap& map, const int32_t* at, Access kind, Site site) {
    walk(map, at, 0, [&](uint32_t, uint64_t address, uint32_t first, uint32_t bytes) {
        if (bytes) block.touch_by_engine(address + first, bytes, kind, site);
    });
}

static void check_tile_address(Block& block, uint32_t address, Site site) {
    if (address % 128) block.fail("alignment", "a tile's shared address is no multiple of 128", site);
}

static std::array<int32_t, MAX_RANK> coordinates(const int32_t* at, uint32_t rank) {
    std::array<int32_t, MAX_RANK> all{};
    std::copy_n(at, rank, all.begin());
    return all;
}

void tile_load(uint32_t to, const void* map_address, uint32_t mbarrier, const int32_t* at, uint32_t rank) {
    Block& block = *executing();
    const Site site = SITE;
    const TileMap map = read_map(block, map_address, rank, site);
    check_tile_address(block, to, site);
    touch_tile(block, map, at, Access::read, site);
    issue_copy(block, {to, map.box_bytes(), mbarrier, nullptr, map, coordinates(at, rank), site, block.current().thread, {}});
}

void land_tile(Block& block, const BulkCopy& copy) {
    walk(copy.map, copy.at.data(), copy.to, [&](uint32_t to, uint64_t address, uint32_t first, uint32_t bytes) {
        uint8_t* chunk = block.arena_start() + to;
        memset(chunk, 0, CHUNK_BYTES);
        if (bytes) memcpy(chunk + first, reinterpret_cast<const void*>(address + first), bytes);
    });
}

void tile_store(const void* map_address, uint32_t from, const int32_t* at, uint32_t rank) {
    Block& block = *executing();
    const Site site = SITE;
    Fibre& self = block.current();
    const TileMap map = read_map(block, map_address, rank, site);
    check_tile_address(block, from, site);
    uint32_t step = 0;
    const uint32_t unit = block.is_checked() ? block.clock().store_engine(self.thread / WARP) : 0;
    if (block.is_checked()) step = block.clock().begin(unit, &self.thread, 1);
    for (uint32_t b = 0; b < map.box_bytes(); b += CHUNK_BYTES) {
        block.read_shared_by(unit, from + b, CHUNK_BYTES, "a tile store reads", site);
    }
    touch_tile(block, map, at, Access::write, site);
    walk(map, at, from, [&](uint32_t, uint64_t address, uint32_t first, uint32_t bytes) {
        if (!bytes) return;
        memset(reinterpret_cast<void*>(address + first), POISON, bytes);
        block.mark_global(address + first, bytes, Byte::in_flight);
    });
    self.stores.push_back({map, coordinates(at, rank), from, step, site, false, {}});
}

void tile_store_commit() {
    Fibre& self = executing()->current();
    self.store_groups.push_back(self.stores.size());
}

static void read_tile(Block& block, TileStore& store) {
    if (store.has_read) return;
    const uint8_t* start = block.arena_start() + store.from;
    store.bytes.assign(start, start + store.map.box_bytes());
    store.has_read = true;
}

static void write_tile(Block& block, TileStore& store) {
    read_tile(block, store);
    walk(store.map, store.at.data(), store.from, [&](uint32_t from, uint64_t address, uint32_t first, uint32_t bytes) {
        if (!bytes) return;
        memcpy(reinterpret_cast<void*>(address + first), &store.bytes[from - store.from + first], bytes);
        block.mark_global(address + first, bytes, Byte::written);
    });
}

void tile_store_wait(uint32_t groups_left, bool for_reads_only) {
    Block& block = *executing();
    Fibre& self = block.current();
    if (self.store_groups.size() <= groups_left) return;
    const size_t groups = self.store_groups.size() - groups_left, stores = self.store_groups[groups - 1];
    for (size_t i = 0; i < stores; i++) {
        TileStore& store = self.stores[i];
        for_reads_only ? read_tile(block, store) : write_tile(block, store);
        if (block.is_checked()) block.clock().finish(self.thread, block.clock().store_engine(self.thread / WARP), store.step);
    }
    if (for_reads_only) return;
    self.stores.erase(self.stores.begin(), self.stores.begin() + long(stores));
    self.store_groups.erase(self.store_groups.begin(), self.store_groups.begin() + long(groups));
    for (size_t& end : self.store_groups) end -= stores;
}

// Shared memory must outlive the reads; the writes end with the kernel.
void end_stores(Block& block) {
    for (TileStore& store : block.current().stores) {
        if (!store.has_read) block.find("copy", "the thread left the kernel while a tile store reads shared memory", store.site);
        write_tile(block, store);
    }
    block.current().stores.clear();
}

}  // namespace emu

// The checks of cuTensorMapEncodeTiled. Its manual also wants each stride to be a multiple of the one before; the driver
// does not insist, and maps of attention's heads depend on that.
extern "C" __attribute__((visibility("default"))) int emu_tile_map_encode(
    void* out, uint32_t type, uint32_t rank, uint64_t base, const uint64_t* dims, const uint64_t* strides, const uint32_t* box,
    const uint32_t* element_strides, uint32_t interleave, uint32_t swizzle, uint32_t fill) {
    using namespace emu;
    if (!out || uintptr_t(out) % 64 || type >= sizeof ELEMENT_BYTES || rank == 0 || rank > MAX_RANK) return 1;
    if (interleave > INTERLEAVE_32 || swizzle >= sizeof SWIZZLE_SPANS || fill > 1) return 1;
    if ((interleave && rank < 3) || (interleave == INTERLEAVE_32 && swizzle != SWIZZLE_32)) return 1;
    const uint32_t alignment = interleave == INTERLEAVE_32 ? 32 : 16;
    if (!base || base % alignment || (fill && type < FIRST_FLOAT)) return 1;
    TileMap map{};
    map.magic = TileMap::MAGIC;
    map.base = base;
    map.rank = uint8_t(rank);
    map.element_bytes = ELEMENT_BYTES[type];
    map.interleave = uint8_t(interleave);
    map.fill = uint8_t(fill);
    map.span = SWIZZLE_SPANS[swizzle];
    for (uint32_t i = 0; i < rank; i++) {
        if (dims[i] == 0 || dims[i] > 1ull << 32 || box[i] == 0 || box[i] > 256) return 1;
        if (element_strides[i] == 0 || element_strides[i] > 8) return 1;
        if (i && (strides[i - 1] % alignment || strides[i - 1] >= 1ull << 40)) return 1;
        map.dims[i] = dims[i];
        map.box[i] = uint16_t(box[i]);
        map.element_strides[i] = uint8_t(element_strides[i]);
        if (i) map.strides[i - 1] = strides[i - 1];
    }
    if (!interleave && (map.row_bytes() % 16 || (map.span && map.row_bytes() > map.span))) return 1;
    memset(out, 0, 128);
    memcpy(out, &map, sizeof map);
    return 0;
}
