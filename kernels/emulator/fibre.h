// A CUDA thread as a fibre: its own stack, switched by hand.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emu {

// Saves the running fibre's stack pointer and continues the other one.
extern "C" void emu_switch(void** save, void* next);

// Stacks of equal size with an unmapped page below each.
class Stacks {
  public:
    static constexpr size_t SIZE = 128 * 1024;
    ~Stacks();
    // Enough for so many fibres; the old contents are lost.
    void reserve(size_t count);
    // The stack pointer of a fibre that will begin in `entry`.
    void* prepare(size_t index, void (*entry)());
    bool holds(uintptr_t address) const { return address - uintptr_t(base) < mapped; }
    size_t owner(uintptr_t address) const { return (address - uintptr_t(base)) / SIZE; }

  private:
    unsigned char* base = nullptr;
    size_t mapped = 0;
};

}  // namespace emu
