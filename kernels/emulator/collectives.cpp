// Barriers, shuffles and votes: meetings of threads.
#include <cstring>

#include "instructions.h"

#define SITE __builtin_return_address(0)

namespace emu {

void meet_warp(const char* what, uint32_t mask, void* argument, Act act, bool orders_memory, Site site) {
    Block& block = *executing();
    Fibre& self = block.current();
    Warp& warp = block.warp_of(self);
    const uint32_t lane = self.thread % WARP, first = self.thread - lane;
    if (!(mask >> lane & 1)) block.fail("divergence", std::string(what) + ": the calling lane is not in the mask", site);
    if (mask & ~warp.alive) {
        block.fail("divergence", std::string(what) + ": the mask names lanes that do not exist or have left", site);
    }
    // Lanes with the same mask meet. With other masks they wait elsewhere; if that never ends, it is a deadlock.
    Meeting* meeting = nullptr;
    for (Meeting& m : warp.meetings) {
        if (m.arrived && m.mask == mask) {
            meeting = &m;
            block.refuse_other_site(m, what, site);
            break;
        }
        if (!m.arrived && !meeting) meeting = &m;
    }
    if (!meeting->arrived) {
        meeting->what = what;
        meeting->site = site;
        meeting->mask = mask;
    }
    meeting->arguments[lane] = argument;
    meeting->arrived |= 1u << lane;
    if (meeting->arrived != mask) return block.wait(what, site);

    block.count().collectives++;
    meeting->arrived = 0;
    act(block, meeting->arguments.data(), mask, site);
    uint32_t threads[WARP], count = 0;
    for (uint32_t l = 0; l < WARP; l++) {
        if (mask >> l & 1) threads[count++] = first + l;
    }
    if (orders_memory && block.is_checked()) block.clock().meet(threads, count);
    // To the front of the queue, so that a warp goes on together.
    while (count--) {
        if (threads[count] != self.thread) block.ready(block.fibre(threads[count]), true);
    }
}

struct Exchange {
    uint32_t value, source, out;
};

static void exchange(Block& block, void* const* arguments, uint32_t mask, Site site) {
    for (uint32_t l = 0; l < WARP; l++) {
        if (!(mask >> l & 1)) continue;
        auto* e = static_cast<Exchange*>(arguments[l]);
        const uint32_t source = e->source % WARP;
        if (!(mask >> source & 1)) block.fail("divergence", "shuffle from a lane that takes no part", site);
        e->out = static_cast<Exchange*>(arguments[source])->value;
    }
}

uint32_t shuffle(uint32_t mask, uint32_t value, uint32_t source_lane) {
    Exchange e{value, source_lane, 0};
    meet_warp("a shuffle", mask, &e, exchange, false, SITE);
    return e.out;
}

static void collect_votes(Block&, void* const* arguments, uint32_t mask, Site) {
    uint32_t votes = 0;
    for (uint32_t l = 0; l < WARP; l++) {
        if ((mask >> l & 1) && static_cast<Exchange*>(arguments[l])->value) votes |= 1u << l;
    }
    for (uint32_t l = 0; l < WARP; l++) {
        if (mask >> l & 1) static_cast<Exchange*>(arguments[l])->out = votes;
    }
}

uint32_t ballot(uint32_t mask, bool vote) {
    Exchange e{vote, 0, 0};
    meet_warp("a vote", mask, &e, collect_votes, false, SITE);
    return e.out;
}

void warp_barrier(uint32_t mask) {
    meet_warp("a warp barrier", mask, nullptr, [](Block&, void* const*, uint32_t, Site) {}, true, SITE);
}

void block_barrier() {
    Block& block = *executing();
    block.meet(block.barrier(0), "a block barrier", 0, SITE);
}

static void check_named(Block& block, uint32_t id, uint32_t threads, Site site) {
    if (id == 0 || id > 15 || threads == 0 || threads % WARP || threads > block.launch_threads()) {
        block.fail("divergence", "a named barrier has an id from 1 to 15 and whole warps of the block's threads", site);
    }
}

void named_barrier(uint32_t id, uint32_t threads) {
    Block& block = *executing();
    const Site site = SITE;
    check_named(block, id, threads, site);
    block.meet(block.barrier(id), "a named barrier", threads, site);
}

void named_arrive(uint32_t id, uint32_t threads) {
    Block& block = *executing();
    const Site site = SITE;
    check_named(block, id, threads, site);
    block.arrive(block.barrier(id), threads, site);
}

uint3 thread_index() { return executing()->current().index; }
uint3 block_index() { return executing()->index(); }
uint3 block_size() { return executing()->launch().block; }
uint3 grid_size() { return executing()->launch().grid; }

unsigned char* dynamic_shared() { return executing()->dynamic_start(); }

void* shared_array(const void* key, uint32_t bytes, uint32_t alignment) {
    return executing()->shared_array(key, bytes, alignment, SITE);
}

uint32_t shared_address(const void* pointer) {
    Block& block = *executing();
    if (!block.in_shared(uintptr_t(pointer))) block.fail("bounds", "the shared address of something that is not shared", SITE);
    return uint32_t(static_cast<const uint8_t*>(pointer) - block.arena_start());
}

// One OS thread runs a block, and other blocks of the launch may run on other OS threads.
float atomic_add(float* address, float value) {
    executing()->touch(address, 4, Access::atomic, SITE);
    auto* word = reinterpret_cast<uint32_t*>(address);
    uint32_t old = __atomic_load_n(word, __ATOMIC_RELAXED), next;
    float sum;
    do {
        memcpy(&sum, &old, 4);
        sum += value;
        memcpy(&next, &sum, 4);
    } while (!__atomic_compare_exchange_n(word, &old, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    memcpy(&sum, &old, 4);
    return sum;
}

uint32_t atomic_add(uint32_t* address, uint32_t value) {
    executing()->touch(address, 4, Access::atomic, SITE);
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

}  // namespace emu
