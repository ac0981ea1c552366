// sae_encode / forward_3_fused_top_k.cu                                                                 rung 3 of 3
// out  the code of rows first.. first+rows of x: index (N,C+1) u32, z, edited, slope, edit_slope (N,C) f32
//      lists (rows,splits,capacity) u64 and counts (rows,splits) u32: candidates, in the scratch of the pre-activations
// in   x (N,D) T, w (S,D) T, folded_bias (S), row_sums (S) or null, row_norms (S) or null f32; edits, see include/sae.cuh;
//      mask (tokens) u8: row n is coded if mask[n % tokens]                             T = f16 or bf16
//      the k largest by (value descending, index ascending)
// idea        pre-activations never leave the SM. A block owns 128 rows and walks through the tiles of its share of the
//             latents; what is not below the row's bound goes to the row's list. When a list is long, a warp keeps its k
//             best, and the k-th becomes the bound. The bound is the k-th of values that exist, so nothing that belongs to
//             the k best is dropped, and a list has room for a whole tile, so it cannot overflow. A second kernel merges
//             the shares exactly, as rung 2 selects.
// needs       sm_80+, D and S multiples of 8, pointers aligned to 16, k <= 256, 64 KiB shared memory
// bytes/flops (N*D + S*D) values, about 8*k*(1 + ln(S/k)) bytes for each row; 2*N*S*D flops
// predicted   with blocks for all SMs 1.2 times the bare product: the pipeline drains at each tile, pushes cost 5 to 10 %
// measured    never run on a GPU; executed by the emulator only
// checked by  tests/emulator/sae_encode.rs
#include "include/sae_select.cuh"
#include "include/tile.cuh"

// Keys of a list that a lane holds while its warp shortens the list.
constexpr int LANE_KEYS = 16;

// The k largest of a list's `count` keys, to its front; in what order does not matter. All lanes of a warp. Returns a value
// that k of the keys are not below and that is not above the k-th.
DEV float keep_best(u64* list, u32 count, u32 k) {
    const u32 lane = threadIdx.x % WARP_SIZE;
    u64 own[LANE_KEYS];
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++) {
        const u32 at = i * WARP_SIZE + lane;
        own[i] = at < count ? list[at] : 0;
    }
    // The largest bound with k keys from it on, bit by bit. Keys differ, so there is one with k keys exactly.
    u64 bound = 0;
    for (int bit = 63; bit >= 0; bit--) {
        const u64 trial = bound | 1ull << bit;
        u32 above = 0;
#pragma unroll
        for (int i = 0; i < LANE_KEYS; i++) above += own[i] >= trial;
        above = warp_sum(above);
        if (above >= k) bound = trial;
        if (above == k) break;
    }
    // Every lane has read its keys.
    warp_barrier();
    u32 kept = 0;
#pragma unroll
    for (int i = 0; i < LANE_KEYS; i++) {
        const bool is_kept = own[i] >= bound;
        const u32 votes = ballot(is_kept);
        if (is_kept) list[kept + count_bits(votes & ((1u << lane) - 1))] = own[i];
        kept += count_bits(votes);
    }
    return sae::value_of(bound);
}

template <class T>
DEV void candidates(u64* lists, u32* counts, const float* shifts, const float* gains, const T* x, const T* w,
                    const float* folded_bias, const float* row_sums, const float* row_norms, float gain, int is_relu, int k,
                    const u8* mask, int tokens, int capacity, int first, int rows, int S, int C, int D) {
    SHARED(float[tile::M], bound);
    SHARED(u32[tile::M], count);
    const int splits = gridDim.y, split = blockIdx.y, m0 = blockIdx.x * tile::M;
    const int tiles = ceil_div(S, tile::N), begin = i64(tiles) * split / splits, end = i64(tiles) * (split + 1) / splits;
    auto list_of = [&](int m) { return lists + (i64(m) * splits + split) * capacity; };
    for (int m = threadIdx.x; m < tile::M; m += tile::THREADS) {
        const bool is_seen = m0 + m < rows && mask[i64(first + m0 + m) % tokens];
        // The least positive number, so that zeros fall; NaN, so that everything does.
        bound[m] = !is_seen ? float_of(0x7fffffff) : is_relu ? float_of(1) : float_of(0xff800000);
        count[m] = 0;
    }
    block_barrier();
    for (int t = begin; t < end; t++) {
        tile::product_at<false>(x + i64(first) * D, w, rows, S, D, m0, t * tile::N, [&](int m, int s, float(&v)[8]) {
            const i64 n = first + m;
            const float row_gain = gains ? gains[n * C] : gain, shift = row_sums ? shifts[n * C] : 0.0f;
            const float least = bound[m - m0];
#pragma unroll
            for (int i = 0; i < 8; i += 4) {
                const Vec<float> bias = load_vec(folded_bias + s + i);
                Vec<float> sums = {}, norms = {1.0f, 1.0f, 1.0f, 1.0f};
                if (row_sums) sums = load_vec(row_sums + s + i);
                if (row_norms) norms = load_vec(row_norms + s + i);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float h = ((v[i + e] - shift * sums.at[e]) * row_gain + bias.at[e]) * norms.at[e];
                    if (h >= least) list_of(m)[atomic_add(&count[m - m0], 1)] = sae::key_of(h, s + i + e, false);
                }
            }
        });
        block_barrier();
        // A list takes one more tile, unless it is the last.
        const u32 most = t + 1 < end ? capacity - tile::N : k;
        for (int m = threadIdx.x / WARP_SIZE; m < tile::M; m += tile::THREADS / WARP_SIZE) {
            if (count[m] <= most) continue;
            const float least = keep_best(list_of(m0 + m), count[m], k);
            warp_barrier();
            if (threadIdx.x % WARP_SIZE == 0) {
                bound[m] = least;
                count[m] = k;
            }
        }
        block_barrier();
    }
    for (int m = threadIdx.x; m < tile::M && m0 + m < rows; m += tile::THREADS) {
        counts[i64(m0 + m) * splits + split] = count[m];
    }
}

// Where keys come from: the lists of a row, one for each share of the latents.
struct Lists {
    const u64* lists;
    const u32* counts;
    int splits, capacity;
};

template <class See> DEV void each_key(const Lists& from, See see) {
    for (int split = 0; split < from.splits; split++) {
        const u64* list = from.lists + i64(split) * from.capacity;
        for (u32 i = threadIdx.x; i < from.counts[split]; i += sae::SELECT_THREADS) see(list[i]);
    }
}

// Blocks of the candidates' kernel on an SM. For sm_100, 103 and 110 the compiler wants more registers than two blocks
// leave.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000 && __CUDA_ARCH__ < 1200
constexpr int RESIDENT = 1;
#else
constexpr int RESIDENT = 2;
#endif

#define ENTRY(T)                                                                                                       \
    KERNEL void __launch_bounds__(tile::THREADS, RESIDENT) sae_encode_forward_candidates__3__##T(                      \
        u64* lists, u32* counts, const float* shifts, const float* gains, const T* x, const T* w,                      \
        const float* folded_bias, const float* row_sums, const float* row_norms, float gain, int is_relu, int k,       \
        const u8* mask, int tokens, int capacity, int first, int rows, int S, int C, int D) {                          \
        candidates(lists, counts, shifts, gains, x, w, folded_bias, row_sums, row_norms, gain, is_relu, k, mask,       \
                   tokens, capacity, first, rows, S, C, D);                                                            \
    }                                                                                                                  \
    REGISTER_KERNEL(sae_encode_forward_candidates__3__##T)

ENTRY(f16)
ENTRY(bf16)

KERNEL void __launch_bounds__(sae::SELECT_THREADS) sae_encode_forward_merge__3__f32(
    u32* index, float* z, float* edited, float* slope, float* edit_slope, const u64* lists, const u32* counts, int splits,
    int capacity, const float* row_norms, int k, const u32* edits, int edit_count, int forced_count, const u8* mask,
    int tokens, int first, int C) {
    SHARED(sae::Selection, shared);
    const i64 at = blockIdx.x, n = first + at;
    const sae::Row row = sae::row_of(index, z, edited, slope, edit_slope, row_norms, n, C);
    if (!mask[n % tokens]) {
        if (threadIdx.x == 0) row.index[0] = 0;
        return;
    }
    const Lists keys = {lists + at * splits * capacity, counts + at * splits, splits, capacity};
    const u32 used = sae::top_k(row, k, shared, keys);
    sae::finish(row, used, edits, edit_count, forced_count, shared.scratch);
}
REGISTER_KERNEL(sae_encode_forward_merge__3__f32)
