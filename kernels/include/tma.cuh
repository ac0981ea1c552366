// Tiles of tensors by the copy engine (sm_90): boxes of a tensor that a map describes, to shared memory and back.
//
// What lies outside of the tensor is read as zeros and not written. A tile in shared memory starts at a multiple of 128
// bytes; one whose map has a swizzle of 32, 64 or 128 bytes has rows of that many bytes, in which chunks of 16 bytes are
// exchanged: chunk ^= row, by the bits of the address from 7 on. Coordinates are elements, the innermost dimension first.
#pragma once

#include "include/barrier.cuh"

// A CUtensorMap, made by the host. A kernel takes it as `const __grid_constant__ TileMap`.
struct alignas(64) TileMap {
    u64 opaque[16];
};

#ifdef VITSCOPE_EMULATED

DEV void tile_map_prefetch(const TileMap&) {}

// The mbarrier counts the bytes of the whole box.
DEV void tile_load(u32 to, const TileMap& map, u32 mbarrier, int x, int y) {
    const int at[] = {x, y};
    emu::tile_load(to, &map, mbarrier, at, 2);
}
DEV void tile_load(u32 to, const TileMap& map, u32 mbarrier, int x, int y, int z) {
    const int at[] = {x, y, z};
    emu::tile_load(to, &map, mbarrier, at, 3);
}

// What threads wrote to the tile needs their `async_proxy_fence` and a barrier before.
DEV void tile_store(const TileMap& map, u32 from, int x, int y) {
    const int at[] = {x, y};
    emu::tile_store(&map, from, at, 2);
}
DEV void tile_store(const TileMap& map, u32 from, int x, int y, int z) {
    const int at[] = {x, y, z};
    emu::tile_store(&map, from, at, 3);
}
// The stores since the last commit are one group.
DEV void tile_store_commit() { emu::tile_store_commit(); }
// Waits until at most GROUPS_LEFT of this thread's groups still read shared memory. Before leaving the kernel, too.
template <int GROUPS_LEFT> DEV void tile_store_wait_read() { emu::tile_store_wait(GROUPS_LEFT, true); }
// Waits until at most GROUPS_LEFT of this thread's groups are in flight.
template <int GROUPS_LEFT> DEV void tile_store_wait() { emu::tile_store_wait(GROUPS_LEFT, false); }

#else

DEV void tile_map_prefetch(const TileMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

DEV void tile_load(u32 to, const TileMap& map, u32 mbarrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
                     "r"(to), "l"(&map), "r"(mbarrier), "r"(x), "r"(y)
                 : "memory");
}
DEV void tile_load(u32 to, const TileMap& map, u32 mbarrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to), "l"(&map), "r"(mbarrier), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
DEV void tile_store(const TileMap& map, u32 from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map), "r"(from),
                 "r"(x), "r"(y)
                 : "memory");
}
DEV void tile_store(const TileMap& map, u32 from, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
                 "r"(from), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
DEV void tile_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int GROUPS_LEFT> DEV void tile_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(GROUPS_LEFT) : "memory");
}
template <int GROUPS_LEFT> DEV void tile_store_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
}

#endif
