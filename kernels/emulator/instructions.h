// What the parts of the runtime that carry out instructions offer each other.
#pragma once

#include "block.h"

namespace emu {

// Lets one asynchronous copy act, the oldest or with a seed any. False when there is none.
bool run_engine(Block& block);

// Bytes of a copy have arrived for an mbarrier.
void mbarrier_complete(Block& block, uint32_t address, uint32_t bytes);

// All lanes of `mask` meet; the last to arrive runs `act` over the lanes' arguments.
using Act = void (*)(Block&, void* const* arguments, uint32_t mask, Site site);
void meet_warp(const char* what, uint32_t mask, void* argument, Act act, bool orders_memory, Site site);

}  // namespace emu
