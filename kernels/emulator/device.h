// What a kernel sees of the emulator. Included by include/types.cuh when VITSCOPE_EMULATED is defined.
//
// Every function here is one instruction of a CUDA thread. The runtime finds the kernel's source line by the return
// address of the call, so the wrappers in include/ are always inlined and nothing here is called through a pointer.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
    unsigned x, y, z;
};

#pragma GCC visibility push(default)

namespace emu {

// Indices are constant for a thread, so the compiler may keep them.
__attribute__((const)) uint3 thread_index();
__attribute__((const)) uint3 block_index();
__attribute__((const)) uint3 block_size();
__attribute__((const)) uint3 grid_size();

// Shared memory. Addresses are offsets into the block's arena; arrays are keyed by their declaration.
unsigned char* dynamic_shared();
void* shared_array(const void* key, uint32_t bytes, uint32_t alignment);
uint32_t shared_address(const void* pointer);

// Meetings of threads: each is an error unless all its threads arrive at the same source line.
void block_barrier();
void named_barrier(uint32_t id, uint32_t threads);
void named_arrive(uint32_t id, uint32_t threads);
void warp_barrier(uint32_t mask);
uint32_t shuffle(uint32_t mask, uint32_t value, uint32_t source_lane);
uint32_t ballot(uint32_t mask, bool vote);

enum class Half { f16, bf16 };
void load_matrix(uint32_t* out, uint32_t address, bool transposed);
void multiply_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, Half type);
void multiply_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b);

// Copies of 16 bytes of which the first `bytes` are read and the rest are zero. They act at the wait, not before.
void copy_async(uint32_t to, const void* from, uint32_t bytes);
void copy_commit();
void copy_wait(uint32_t groups_left);

void mbarrier_init(uint32_t address, uint32_t arrivals);
void mbarrier_init_fence();
void mbarrier_arrive(uint32_t address, uint32_t expected_bytes);
void mbarrier_wait(uint32_t address, uint32_t parity);
// A copy by the asynchronous engine: it acts when nothing else can, or at a random time, and then tells the mbarrier.
void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier);

// What the running thread wrote becomes visible to the copy engine and the tensor cores.
void async_proxy_fence();

// Tiles of tensors, by a map that is read at once. Stores read and write at their waits.
void tile_load(uint32_t to, const void* map, uint32_t mbarrier, const int32_t* at, uint32_t rank);
void tile_store(const void* map, uint32_t from, const int32_t* at, uint32_t rank);
void tile_store_commit();
void tile_store_wait(uint32_t groups_left, bool for_reads_only);

// A warpgroup's products, by its 128 threads together. They read shared memory and write registers at the wait.
struct Operands {
    uint32_t n;
    bool accumulates, a_is_mn, b_is_mn;
    const uint32_t* fragment;   // of A, or null when `a` describes it
    uint64_t a, b;
};
void warpgroup_multiply(float* d, const Operands& operands, Half type);
void warpgroup_fence();
void warpgroup_commit();
void warpgroup_wait(uint32_t groups_left);
void set_registers(uint32_t count);

float atomic_add(float* address, float value);
uint32_t atomic_add(uint32_t* address, uint32_t value);

// A kernel as the launcher finds it: its address, a caller that unpacks the parameters, and their sizes.
struct Kernel {
    void* function;
    void (*call)(void* function, const void* const* parameters);
    const uint32_t* sizes;
    uint32_t count;
};

template <class... A> struct Describe {
    static constexpr uint32_t sizes[sizeof...(A) + 1] = {sizeof(A)...};

    // The caller's bytes need not be aligned as the parameter is.
    template <class P> __attribute__((no_sanitize("thread"), always_inline)) static P load(const void* from) {
        P value;
        memcpy(&value, from, sizeof value);
        return value;
    }
    template <size_t... I>
    __attribute__((no_sanitize("thread"), always_inline)) static void
    unpack(void* function, const void* const* parameters, std::index_sequence<I...>) {
        reinterpret_cast<void (*)(A...)>(function)(load<A>(parameters[I])...);
    }
    __attribute__((no_sanitize("thread"))) static void call(void* function, const void* const* parameters) {
        unpack(function, parameters, std::index_sequence_for<A...>{});
    }
};

template <class... A> Kernel describe(void (*kernel)(A...)) {
    return {reinterpret_cast<void*>(kernel), &Describe<A...>::call, Describe<A...>::sizes, sizeof...(A)};
}

}  // namespace emu

#pragma GCC visibility pop

#define threadIdx (emu::thread_index())
#define blockIdx (emu::block_index())
#define blockDim (emu::block_size())
#define gridDim (emu::grid_size())
