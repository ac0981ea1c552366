// A tile is written again while the copy engine may still read it.
#include "include/tma.cuh"

template <bool BUG> DEV void store(const TileMap& map, const int* x) {
    DYNAMIC_SHARED(memory);
    int* tile = reinterpret_cast<int*>(memory);
    const int t = threadIdx.x;
    tile[t] = x[t];
    async_proxy_fence();
    block_barrier();
    if (t == 0) {
        tile_store(map, shared_address(tile), 0, 0);
        tile_store_commit();
        if constexpr (!BUG) tile_store_wait_read<0>();
    }
    block_barrier();
    tile[t] = 0;  // HERE
    if (t == 0) tile_store_wait_read<0>();
}

KERNEL void with_bug(int*, const int* x, const __grid_constant__ TileMap map) { store<true>(map, x); }
REGISTER_KERNEL(with_bug)
KERNEL void without_bug(int*, const int* x, const __grid_constant__ TileMap map) { store<false>(map, x); }
REGISTER_KERNEL(without_bug)
