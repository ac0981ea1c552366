// wgmma and setmaxnreg: instructions of 128 threads, all of which meet. A product reads its registers when it is issued,
// reads shared memory and adds at the wait, and its accumulators hold NaN until then.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "instructions.h"

#define SITE __builtin_return_address(0)

namespace emu {

constexpr uint32_t ROWS = 64, DEPTH = 16, CHUNK_HALVES = 8;

using ActTogether = void (*)(Block&, Warpgroup&, void* const* arguments, Site site);

static void meet_warpgroup(const char* what, void* argument, ActTogether act, Site site) {
    Block& block = *executing();
    Fibre& self = block.current();
    Warpgroup& group = block.warpgroup_of(self);
    Meeting& meeting = group.meeting;
    if (group.alive != WARPGROUP) {
        block.fail("divergence", std::string(what) + " needs the 128 threads of a warpgroup, of which some have left or never were",
                   site);
    }
    if (meeting.threads.empty()) {
        meeting.what = what;
        meeting.site = site;
    } else {
        block.refuse_other_site(meeting, what, site);
    }
    group.arguments[self.thread % WARPGROUP] = argument;
    meeting.threads.push_back(self.thread);
    if (meeting.threads.size() < WARPGROUP) return block.wait(what, site);
    block.count().collectives++;
    meeting.threads.clear();
    act(block, group, group.arguments.data(), site);
    const uint32_t first = self.thread / WARPGROUP * WARPGROUP;
    for (uint32_t t = WARPGROUP; t-- > 0;) {
        if (first + t != self.thread) block.ready(block.fibre(first + t), true);
    }
}

// --- operands -----------------------------------------------------------------------------------------------------------

// A matrix of halves in shared memory, as the PTX manual describes it: 8 x 16 bytes make a core matrix.
struct Descriptor {
    uint32_t start, leading, stride, span;   // bytes; the span of the swizzle, 0 for none
    bool is_mn;                              // rows of the tile are contiguous, and not its depth

    // The address of 16 bytes: K-major, 8 of k (chunk 0 or 1) in row `row`; MN-major, 8 rows (chunk) at k `row`.
    uint32_t address(uint32_t row, uint32_t chunk) const {
        const uint32_t eight = row / 8, in_eight = row % 8;
        if (!span) {
            const uint32_t by_chunk = is_mn ? stride : leading, by_eight = is_mn ? leading : stride;
            return start + chunk * by_chunk + eight * by_eight + in_eight * 16;
        }
        const uint32_t chunks = span / 16;
        return swizzled(start + chunk % chunks * 16 + chunk / chunks * leading + in_eight * span + eight * stride, span);
    }
};

static Descriptor decode(Block& block, uint64_t bits, bool is_mn, Site site) {
    constexpr uint32_t SPANS[] = {0, 128, 64, 32};
    auto field = [&](uint32_t from) { return uint32_t(bits >> from & 0x3fff) << 4; };
    const Descriptor d{field(0), field(16), field(32), SPANS[bits >> 62], is_mn};
    if (bits >> 49 & 7) block.fail("wgmma", "the emulator knows descriptors without a base offset", site);
    // 8 rows repeat the pattern; an advance in k stays inside of a row.
    if (d.span && d.start % (8 * d.span) >= d.span) {
        block.fail("alignment", "an operand does not start at a repetition of its swizzle's pattern", site);
    }
    return d;
}

// Calls each(address, first row, first k) for every 16 bytes of an operand of `rows` by 16 of k.
template <class Each> static void walk(const Descriptor& d, uint32_t rows, Each each) {
    if (d.is_mn) {
        for (uint32_t k = 0; k < DEPTH; k++) {
            for (uint32_t c = 0; c < rows / CHUNK_HALVES; c++) each(d.address(k, c), c * CHUNK_HALVES, k);
        }
    } else {
        for (uint32_t r = 0; r < rows; r++) {
            for (uint32_t c = 0; c < DEPTH / CHUNK_HALVES; c++) each(d.address(r, c), r, c * CHUNK_HALVES);
        }
    }
}

// To matrix[row * by_row + k * by_k].
static void read(Block& block, const Descriptor& d, uint32_t rows, Half type, float* matrix, uint32_t by_row, uint32_t by_k) {
    const uint32_t next = d.is_mn ? by_row : by_k;
    walk(d, rows, [&](uint32_t address, uint32_t row, uint32_t k) {
        uint16_t halves[CHUNK_HALVES];
        memcpy(halves, block.arena_start() + address, sizeof halves);
        float* to = matrix + row * by_row + k * by_k;
        for (uint32_t i = 0; i < CHUNK_HALVES; i++) to[i * next] = widen(halves[i], type);
    });
}

// --- issue --------------------------------------------------------------------------------------------------------------

struct Issue {
    float* d;
    const Operands* operands;
    Half type;
};

// Element i of thread t's accumulators is at this row and column.
static uint32_t row_of(uint32_t t, uint32_t i) { return t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8; }
static uint32_t column_of(uint32_t t, uint32_t i) { return i / 4 * 8 + t % 4 * 2 + i % 2; }

// The accumulators of these registers: those in flight, or taken out of the registers now.
static Accumulators& take(Block& block, Warpgroup& group, void* const* arguments, uint32_t n, Site site) {
    auto registers = [&](uint32_t t) { return static_cast<const Issue*>(arguments[t])->d; };
    for (Accumulators& sum : group.sums) {
        if (sum.registers[0] != registers(0)) continue;
        bool is_same = sum.n == n;
        for (uint32_t t = 0; t < WARPGROUP; t++) is_same &= sum.registers[t] == registers(t);
        if (!is_same) block.fail("divergence", "accumulators in flight are used in another shape or by other threads", site);
        return sum;
    }
    if (!group.is_fenced) {
        block.find("wgmma", "a product into registers that were not fenced since they were the threads' own", site);
    }
    Accumulators& sum = group.sums.emplace_back();
    sum.n = n;
    sum.in_flight = 0;
    sum.values.resize(ROWS * n);
    for (uint32_t t = 0; t < WARPGROUP; t++) {
        sum.registers[t] = registers(t);
        for (uint32_t i = 0; i < n / 2; i++) {
            sum.values[row_of(t, i) * n + column_of(t, i)] = sum.registers[t][i];
            sum.registers[t][i] = NAN;
        }
    }
    return sum;
}

static void issue(Block& block, Warpgroup& group, void* const* arguments, Site site) {
    const Issue& first = *static_cast<const Issue*>(arguments[0]);
    const Operands& o = *first.operands;
    for (uint32_t t = 1; t < WARPGROUP; t++) {
        const Operands& other = *static_cast<const Issue*>(arguments[t])->operands;
        if (other.accumulates != o.accumulates || other.b != o.b || (!o.fragment && other.a != o.a)) {
            block.fail("divergence", "thread " + std::to_string(t) + " of the warpgroup gives wgmma other operands than thread 0",
                       site);
        }
    }
    Product p{first.type, o.n, o.accumulates, o.a_is_mn, o.b_is_mn, o.fragment != nullptr, o.a, o.b, {}, nullptr, 0, site};
    if (p.a_in_registers) {
        p.fragment.resize(ROWS * DEPTH);
        for (uint32_t t = 0; t < WARPGROUP; t++) {
            const uint32_t* words = static_cast<const Issue*>(arguments[t])->operands->fragment;
            for (uint32_t i = 0; i < 8; i++) {
                const uint32_t row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, k = t % 4 * 2 + i / 4 * 8 + i % 2;
                p.fragment[row * DEPTH + k] = widen(words[i / 2] >> i % 2 * 16 & 0xffff, p.type);
            }
        }
    }
    const Descriptor b = decode(block, p.b, p.b_is_mn, site);
    const uint32_t warpgroup = block.current().thread / WARPGROUP;
    uint32_t unit = 0;
    if (block.is_checked()) {
        uint32_t threads[WARPGROUP];
        for (uint32_t t = 0; t < WARPGROUP; t++) threads[t] = warpgroup * WARPGROUP + t;
        unit = block.clock().tensor_cores(warpgroup);
        p.step = block.clock().begin(unit, threads, WARPGROUP);
    }
    auto check = [&](uint32_t address, uint32_t, uint32_t) { block.read_shared_by(unit, address, 16, "wgmma reads", site); };
    if (!p.a_in_registers) walk(decode(block, p.a, p.a_is_mn, site), ROWS, check);
    walk(b, p.n, check);
    p.sum = &take(block, group, arguments, p.n, site);
    p.sum->in_flight++;
    group.products.push_back(std::move(p));
}

void warpgroup_multiply(float* d, const Operands& operands, Half type) {
    Issue i{d, &operands, type};
    meet_warpgroup("wgmma", &i, issue, SITE);
}

void warpgroup_fence() {
    meet_warpgroup("wgmma.fence", nullptr, [](Block&, Warpgroup& g, void* const*, Site) { g.is_fenced = true; }, SITE);
}

void warpgroup_commit() {
    meet_warpgroup("wgmma.commit_group", nullptr,
                   [](Block&, Warpgroup& g, void* const*, Site) { g.groups.push_back(g.products.size()); }, SITE);
}

// --- the wait -----------------------------------------------------------------------------------------------------------

// sum (64,N) += a (64,16) b (16,N), in f32 and in the order of k. A GPU's order differs and is not documented.
template <uint32_t N> static void add(float* sum, const float* a, const float* b) {
    for (uint32_t m = 0; m < ROWS; m++) {
        for (uint32_t k = 0; k < DEPTH; k++) {
            for (uint32_t n = 0; n < N; n++) sum[m * N + n] += a[m * DEPTH + k] * b[k * N + n];
        }
    }
}

static void act(Block& block, const Product& p) {
    float from_shared[ROWS * DEPTH], b[DEPTH * 256];
    const float* a = p.fragment.data();
    if (!p.a_in_registers) {
        read(block, decode(block, p.a, p.a_is_mn, p.site), ROWS, p.type, from_shared, DEPTH, 1);
        a = from_shared;
    }
    read(block, decode(block, p.b, p.b_is_mn, p.site), p.n, p.type, b, 1, p.n);
    float* sum = p.sum->values.data();
    if (!p.accumulates) std::fill_n(sum, ROWS * p.n, 0.0f);
    switch (p.n) {
        case 64: add<64>(sum, a, b); break;
        case 128: add<128>(sum, a, b); break;
        case 256: add<256>(sum, a, b); break;
        default: block.fail("wgmma", "the emulator knows N = 64, 128 and 256", p.site);
    }
    block.count().matrix_products++;
}

static void wait_for_groups(Block& block, Warpgroup& group, void* const* arguments, Site) {
    const uint32_t left = *static_cast<const uint32_t*>(arguments[0]);
    if (group.groups.size() <= left) return;
    const size_t groups = group.groups.size() - left, products = group.groups[groups - 1];
    const uint32_t warpgroup = block.current().thread / WARPGROUP;
    for (size_t i = 0; i < products; i++) {
        const Product& p = group.products.front();
        act(block, p);
        p.sum->in_flight--;
        if (block.is_checked()) {
            for (uint32_t t = 0; t < WARPGROUP; t++) {
                block.clock().finish(warpgroup * WARPGROUP + t, block.clock().tensor_cores(warpgroup), p.step);
            }
        }
        group.products.pop_front();
    }
    group.groups.erase(group.groups.begin(), group.groups.begin() + long(groups));
    for (size_t& end : group.groups) end -= products;
    group.sums.remove_if([&](const Accumulators& sum) {
        if (sum.in_flight) return false;
        for (uint32_t t = 0; t < WARPGROUP; t++) {
            for (uint32_t i = 0; i < sum.n / 2; i++) sum.registers[t][i] = sum.values[row_of(t, i) * sum.n + column_of(t, i)];
        }
        // The threads may use them again, so the next product needs a fence.
        group.is_fenced = false;
        return true;
    });
}

void warpgroup_wait(uint32_t groups_left) {
    meet_warpgroup("wgmma.wait_group", &groups_left, wait_for_groups, SITE);
}

// --- registers ----------------------------------------------------------------------------------------------------------

static void set_all_registers(Block& block, Warpgroup& group, void* const* arguments, Site site) {
    constexpr uint32_t OF_A_MULTIPROCESSOR = 65536;
    group.registers = *static_cast<const uint32_t*>(arguments[0]);
    uint32_t total = 0;
    for (const Warpgroup& g : block.all_warpgroups()) total += g.registers * WARPGROUP;
    if (group.registers < 24 || group.registers > 256 || group.registers % 8) {
        block.fail("launch", "setmaxnreg takes a multiple of 8 from 24 to 256", site);
    }
    if (total > OF_A_MULTIPROCESSOR) {
        block.fail("launch", "the warpgroups ask for " + std::to_string(total) + " registers, and there are 65536", site);
    }
}

void set_registers(uint32_t count) { meet_warpgroup("setmaxnreg", &count, set_all_registers, SITE); }

}  // namespace emu
