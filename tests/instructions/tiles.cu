// Tiles by the copy engine (sm_90a), each use in the smallest kernel. Blocks of 128 threads.
#include "include/tma.cuh"

#ifdef HAS_SM_90A

DEV void init(u32 barrier) {
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_init_fence();
    }
    block_barrier();
}

// The tile at (x, y) as it lies in shared memory: `words` words.
// covers: tile_map_prefetch(const TileMap&), tile_load(u32, const TileMap&, u32, int, int)
KERNEL void load_tile(u32* out, const __grid_constant__ TileMap map, int x, int y, int words) {
    DYNAMIC_SHARED(memory);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier);
    if (threadIdx.x == 0) tile_map_prefetch(map);
    init(full);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full, words * 4);
        tile_load(shared_address(memory), map, full, x, y);
    }
    mbarrier_wait(full, 0);
    for (int i = threadIdx.x; i < words; i += 128) out[i] = reinterpret_cast<u32*>(memory)[i];
}
REGISTER_KERNEL(load_tile)

// The box at (x, y) of matrix z.
// covers: tile_load(u32, const TileMap&, u32, int, int, int)
KERNEL void load_box(u32* out, const __grid_constant__ TileMap map, int x, int y, int z, int words) {
    DYNAMIC_SHARED(memory);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier);
    init(full);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full, words * 4);
        tile_load(shared_address(memory), map, full, x, y, z);
    }
    mbarrier_wait(full, 0);
    for (int i = threadIdx.x; i < words; i += 128) out[i] = reinterpret_cast<u32*>(memory)[i];
}
REGISTER_KERNEL(load_box)

// Words that threads wrote to shared memory, as they lie there, to the tile at (x, y). What was stored is seen by the
// thread after its wait: `seen` is the tensor's first word.
// covers: async_proxy_fence(), tile_store(const TileMap&, u32, int, int), tile_store_commit(), tile_store_wait()
KERNEL void store_tile(u32* seen, const __grid_constant__ TileMap map, int x, int y, const u32* from, int words,
                       const u32* stored) {
    DYNAMIC_SHARED(memory);
    for (int i = threadIdx.x; i < words; i += 128) reinterpret_cast<u32*>(memory)[i] = from[i];
    async_proxy_fence();
    block_barrier();
    if (threadIdx.x == 0) {
        tile_store(map, shared_address(memory), x, y);
        tile_store_commit();
        tile_store_wait<0>();
        seen[0] = stored[0];
    }
}
REGISTER_KERNEL(store_tile)

// The same for the box at (x, y) of matrix z.
// covers: tile_store(const TileMap&, u32, int, int, int)
KERNEL void store_box(u32* seen, const __grid_constant__ TileMap map, int x, int y, int z, const u32* from, int words,
                      const u32* stored) {
    DYNAMIC_SHARED(memory);
    for (int i = threadIdx.x; i < words; i += 128) reinterpret_cast<u32*>(memory)[i] = from[i];
    async_proxy_fence();
    block_barrier();
    if (threadIdx.x == 0) {
        tile_store(map, shared_address(memory), x, y, z);
        tile_store_commit();
        tile_store_wait<0>();
        seen[0] = stored[0];
    }
}
REGISTER_KERNEL(store_box)

// Tiles `first` to `end`, 8 rows each, through PLACES places of shared memory in turn. A place is written again as soon as
// the store before has read it.
template <int PLACES> DEV void pass(const TileMap& map, const u32* from, int words, int first, int end) {
    DYNAMIC_SHARED(places);
    for (int i = first; i < end; i++) {
        u32* place = reinterpret_cast<u32*>(places) + i % PLACES * words;
        if (threadIdx.x == 0) tile_store_wait_read<PLACES - 1>();
        block_barrier();
        for (int w = threadIdx.x; w < words; w += 128) place[w] = from[i * words + w];
        async_proxy_fence();
        block_barrier();
        if (threadIdx.x == 0) {
            tile_store(map, shared_address(place), 0, i * 8);
            tile_store_commit();
        }
    }
}

// covers: tile_store_wait_read()
KERNEL void reuse(const __grid_constant__ TileMap map, const u32* from, int words, int count) {
    pass<2>(map, from, words, 0, count / 2);
    pass<1>(map, from, words, count / 2, count);
    if (threadIdx.x == 0) tile_store_wait_read<0>();
}
REGISTER_KERNEL(reuse)

// From one tensor to another by the copy engine alone: what it brought needs no fence to be stored.
KERNEL void move_tile(const __grid_constant__ TileMap from, const __grid_constant__ TileMap to, int bytes, int x, int y) {
    DYNAMIC_SHARED(memory);
    SHARED(u64, barrier);
    const u32 full = shared_address(&barrier), tile = shared_address(memory);
    init(full);
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(full, bytes);
        tile_load(tile, from, full, 0, 0);
        mbarrier_wait(full, 0);
        tile_store(to, tile, x, y);
        tile_store_commit();
        tile_store_wait<0>();
    }
}
REGISTER_KERNEL(move_tile)

#endif
