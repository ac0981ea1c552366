// What the parts of the runtime that carry out instructions offer each other.
#pragma once

#include "block.h"

namespace emu {

// Lets one asynchronous copy act, the oldest or with a seed any. False when there is none.
bool run_engine(Block& block);

// Gives the copy engine a copy to shared memory, over poisoned bytes.
void issue_copy(Block& block, BulkCopy copy);

// Writes a tile's bytes to shared memory.
void land_tile(Block& block, const BulkCopy& copy);

// The running thread leaves the kernel: its tile stores act.
void end_stores(Block& block);

// All lanes of `mask` meet; the last to arrive runs `act` over the lanes' arguments.
using Act = void (*)(Block&, void* const* arguments, uint32_t mask, Site site);
void meet_warp(const char* what, uint32_t mask, void* argument, Act act, bool orders_memory, Site site);

// A half-precision float, widened.
float widen(uint32_t half, Half type);

}  // namespace emu
