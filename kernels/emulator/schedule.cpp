// Running a block: fibres take turns, switching only where they wait for each other.
#include <algorithm>
#include <cstring>
#include <map>

#include "block.h"
#include "instructions.h"

namespace emu {

static thread_local Block* current_block = nullptr;

// Not inlined: the address of a thread-local variable must not be kept across a switch of fibres.
__attribute__((noinline)) Block* executing() { return current_block; }

uint64_t Block::random() {
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

void Block::find(const char* kind, const std::string& message, Site site, Site other) {
    work->report->add(kind, message, site, other, block_index, running ? running->index : uint3{});
    if (work->report->is_full()) abandon();
}

void Block::fail(const char* kind, const std::string& message, Site site, Site other) {
    work->report->add(kind, message, site, other, block_index, running ? running->index : uint3{});
    abandon();
}

void Block::abandon() {
    is_dead = true;
    void* unused;
    emu_switch(&unused, main_stack);
    __builtin_unreachable();
}

void Block::ready(Fibre& f, bool first) {
    f.waits_for = nullptr;
    if (first) queue.push_front(&f);
    else queue.push_back(&f);
}

// The next thread to run. Asynchronous copies act when no thread can run; with a seed, also at random times.
Fibre* Block::pick() {
    if (work->seed && !engine.empty() && random() % 8 == 0) run_engine(*this);
    while (queue.empty()) {
        if (!run_engine(*this)) return nullptr;
    }
    if (work->seed) std::swap(queue.front(), queue[random() % queue.size()]);
    Fibre* next = queue.front();
    queue.pop_front();
    return next;
}

void Block::wait(const char* what, Site site) {
    Fibre* self = running;
    self->waits_for = what;
    self->waits_at = site;
    Fibre* next = pick();
    if (!next) deadlock();
    if (next == self) return;
    counters->switches++;
    running = next;
    emu_switch(&self->stack_pointer, next->stack_pointer);
}

// Everyone waits and nothing can happen: names what each group of threads waits for.
void Block::deadlock() {
    std::map<std::pair<std::string, std::string>, std::pair<uint32_t, uint32_t>> groups;
    Site first = nullptr;
    for (const Fibre& f : fibres) {
        if (f.is_done) continue;
        if (!first) first = f.waits_at;
        auto& group = groups[{f.waits_for ? f.waits_for : "?", describe_site(f.waits_at)}];
        if (group.first++ == 0) group.second = f.thread;
    }
    std::string text = "no thread can go on:";
    for (const auto& [what, group] : groups) {
        text += " " + std::to_string(group.first) + " threads (first " + std::to_string(group.second) + ") wait for " +
                what.first + " at " + what.second + ";";
    }
    for (const auto& [address, m] : mbarriers) {
        if (m.waiting.empty()) continue;
        text += " the mbarrier at shared byte " + std::to_string(address) + " lacks " + std::to_string(m.pending) +
                " arrivals and " + std::to_string(m.bytes) + " bytes;";
    }
    const uint32_t gone = uint32_t(fibres.size()) - live;
    text += " " + std::to_string(gone) + " have left the kernel";
    fail("deadlock", text, first);
}

void Block::refuse_other_site(const Meeting& meeting, const char* what, Site site) {
    if (meeting.what == what && meeting.site == site) return;
    // The compiler may have copied one call to several places: then the line is the same.
    if (meeting.what == what && describe_site(meeting.site) == describe_site(site)) return;
    fail("divergence", std::string(what) + " meets " + meeting.what + " of other threads", site, meeting.site);
}

void Block::disperse(Meeting& meeting, const Fibre* self) {
    if (is_checked() && !meeting.threads.empty()) {
        for (uint32_t t : meeting.threads) clocks.acquire(t, meeting.clock);
        clocks.meet(meeting.threads.data(), uint32_t(meeting.threads.size()));
    }
    for (uint32_t t : meeting.threads) {
        if (&fibres[t] != self) ready(fibres[t]);
    }
    meeting.threads.clear();
    meeting.gone = 0;
    meeting.clock.clear();
}

void Block::meet(Meeting& meeting, const char* what, uint32_t expected, Site site) {
    if (meeting.threads.empty()) {
        meeting.what = what;
        meeting.site = site;
        if (!meeting.gone) meeting.mask = expected;
    } else {
        refuse_other_site(meeting, what, site);
    }
    if (meeting.mask != expected) {
        fail("divergence", std::string(what) + " with another count", site, meeting.site);
    }
    meeting.threads.push_back(running->thread);
    if (meeting.threads.size() + meeting.gone < (expected ? expected : live)) return wait(what, site);
    disperse(meeting, running);
    if (work->seed) {
        // The last to arrive need not be the first to go on.
        ready(*running);
        wait(what, site);
    }
}

void Block::arrive(Meeting& meeting, uint32_t expected, Site site) {
    if (meeting.threads.empty() && !meeting.gone) {
        meeting.what = "a named barrier";
        meeting.site = site;
        meeting.mask = expected;
    } else if (meeting.mask != expected) {
        fail("divergence", "an arrival at a named barrier with another count", site, meeting.site);
    }
    if (is_checked()) clocks.release(running->thread, meeting.clock);
    meeting.gone++;
    if (meeting.threads.size() + meeting.gone == expected) disperse(meeting, nullptr);
}

// A thread that leaves no longer counts at __syncthreads, but must not be missed by its warp.
void Block::close_meetings_of(Fibre& f) {
    const uint32_t bit = 1u << f.thread % WARP;
    for (const Meeting& m : warp_of(f).meetings) {
        if (m.arrived && (m.mask & bit)) {
            fail("divergence", "the thread left the kernel while its warp waits for it in " + std::string(m.what), m.site);
        }
    }
    warp_of(f).alive &= ~bit;
    Warpgroup& group = warpgroup_of(f);
    if (!group.meeting.threads.empty()) {
        fail("divergence", "the thread left the kernel while its warpgroup waits for it in " + std::string(group.meeting.what),
             group.meeting.site);
    }
    if (!group.products.empty()) {
        find("wgmma", "the thread left the kernel with a product in flight", group.products.front().site);
        group.products.clear();
    }
    group.alive--;
    Meeting& all = barriers[0];
    if (!all.threads.empty() && all.mask == 0 && all.threads.size() == live) disperse(all, nullptr);
}

void Block::enter() {
    Block* block = executing();
    block->work->kernel->call(block->work->kernel->function, block->work->parameters);
    block->leave();
}

void Block::leave() {
    Fibre& self = *running;
    if (!self.copies.empty()) find("copy", "the thread left the kernel with copies in flight", self.copies[0].site);
    end_stores(*this);
    self.is_done = true;
    live--;
    close_meetings_of(self);
    if (live == 0 && !engine.empty()) find("copy", "the block ended with a bulk copy in flight", engine[0].site);
    void* unused;
    if (live == 0) {
        emu_switch(&unused, main_stack);
    } else {
        Fibre* next = pick();
        if (!next) deadlock();
        counters->switches++;
        running = next;
        emu_switch(&unused, next->stack_pointer);
    }
    __builtin_unreachable();
}

bool Block::run(const Launch& launch, uint3 index, Counters& c) {
    work = &launch;
    counters = &c;
    block_index = index;
    block_number = (index.z * launch.grid.y + index.y) * launch.grid.x + index.x + 1;
    // A multiplicative hash: neighbouring blocks and seeds get unlike orders.
    rng = (launch.seed * 0x9E3779B97F4A7C15ull) ^ (uint64_t(block_number) * 0xD1B54A32D192ED03ull) ^ 1;
    const uint32_t threads = launch.block.x * launch.block.y * launch.block.z;
    live = threads;
    is_dead = false;
    last_allocation = nullptr;

    // Dynamic memory first, then room for arrays with a gap before each. The arena is aligned as DYNAMIC_SHARED says.
    arena_used = (launch.dynamic_shared + 15) & ~15u;
    arena_bytes = arena_used + 2 * MAX_STATIC_SHARED;
    arena_storage.resize(arena_bytes + 1024);
    arena = reinterpret_cast<uint8_t*>((uintptr_t(arena_storage.data()) + 1023) & ~uintptr_t(1023));
    memset(arena, POISON, launch.dynamic_shared);
    static_bytes = 0;
    arrays.clear();
    if (launch.is_checked) {
        shared_state.assign(arena_bytes, Byte::outside);
        std::fill_n(shared_state.begin(), launch.dynamic_shared, Byte::unwritten);
        shared_cells.reset(arena_bytes);
        clocks.reset(threads);
    }

    stacks.reserve(threads);
    fibres.resize(threads);
    warps.assign((threads + WARP - 1) / WARP, Warp{});
    warpgroups.assign((threads + WARPGROUP - 1) / WARPGROUP, Warpgroup{});
    barriers.fill(Meeting{});
    mbarriers.clear();
    engine.clear();
    queue.clear();
    for (uint32_t t = 0; t < threads; t++) {
        Fibre& f = fibres[t];
        f.thread = t;
        f.index = {t % launch.block.x, t / launch.block.x % launch.block.y, t / (launch.block.x * launch.block.y)};
        f.is_done = false;
        f.waits_for = nullptr;
        f.copies.clear();
        f.groups.clear();
        f.stores.clear();
        f.store_groups.clear();
        f.stack_pointer = stacks.prepare(t, &Block::enter);
        warps[t / WARP].alive |= 1u << t % WARP;
        warpgroups[t / WARPGROUP].alive++;
        queue.push_back(&f);
    }

    current_block = this;
    running = pick();
    emu_switch(&main_stack, running->stack_pointer);
    running = nullptr;
    counters->flush();
    if (launch.is_checked && clocks.overflowed()) {
        launch.report->add("limit", "too many barriers in one block for the race check", nullptr, nullptr, index, {});
    }
    current_block = nullptr;
    return !is_dead;
}

}  // namespace emu
