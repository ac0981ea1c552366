// cp.async (sm_80): sizes, zeros, groups. Blocks of 128 threads.
#include "include/copy_async.cuh"
#include "include/vec.cuh"

// Thread t copies chunk t, of which t % 17 bytes are read: the rest are zeros.
// covers: copy_async_16(u32, const void*, u32), copy_async_commit(), copy_async_wait()
KERNEL void sizes(u32* y, const u32* x) {
    SHARED(Vec<float>[128], tile);
    const int t = threadIdx.x;
    copy_async_16(shared_address(&tile[t]), x + t * 4, t % 17);
    copy_async_commit();
    copy_async_wait<0>();
    block_barrier();
    store_vec(reinterpret_cast<float*>(y) + t * 4, load_vec(tile[127 - t].at));
}
REGISTER_KERNEL(sizes)

// Five groups of 2, 1, 0, 1 and 2 chunks a thread, waited for one after the other. Row i of y is what the thread finds
// after group i.
KERNEL void groups(u32* y, const u32* x) {
    SHARED(Vec<float>[6][128], tile);
    const int t = threadIdx.x;
    auto copy = [&](int chunk) { copy_async_16(shared_address(&tile[chunk][t]), x + (chunk * 128 + t) * 4); };
    auto show = [&](int chunk) { store_vec(reinterpret_cast<float*>(y) + (chunk * 128 + t) * 4, load_vec(tile[chunk][t].at)); };
    copy(0);
    copy(1);
    copy_async_commit();
    copy(2);
    copy_async_commit();
    copy_async_commit();
    copy(3);
    copy_async_commit();
    copy(4);
    copy(5);
    copy_async_commit();
    copy_async_wait<4>();
    show(0);
    show(1);
    copy_async_wait<3>();
    show(2);
    copy_async_wait<2>();
    copy_async_wait<1>();
    show(3);
    copy_async_wait<0>();
    show(4);
    show(5);
}
REGISTER_KERNEL(groups)
