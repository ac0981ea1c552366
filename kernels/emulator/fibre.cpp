#include "fibre.h"

#include <sys/mman.h>

#include <new>

#ifndef __x86_64__
#error "the emulator switches fibres in x86-64 assembly; another processor needs its own emu_switch and Stacks::prepare"
#endif

// The callee-saved registers of the System V ABI. `ret` rather than a jump keeps the return predictor in step.
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch,.-emu_switch
)");

namespace emu {

constexpr size_t PAGE = 4096;

Stacks::~Stacks() {
    if (base) munmap(base, mapped);
}

void Stacks::reserve(size_t count) {
    if (count * SIZE <= mapped) return;
    if (base) munmap(base, mapped);
    mapped = count * SIZE;
    void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        base = nullptr;
        mapped = 0;
        throw std::bad_alloc();
    }
    base = static_cast<unsigned char*>(p);
    for (size_t i = 0; i < count; i++) mprotect(base + i * SIZE, PAGE, PROT_NONE);
}

void* Stacks::prepare(size_t index, void (*entry)()) {
    // Tops are staggered so that frames of the same depth do not meet in the first-level cache.
    auto* top = reinterpret_cast<void**>(base + (index + 1) * SIZE - (index % 61) * 1088 - 64);
    *--top = nullptr;   // where `entry` would return to; it never does
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    return top;
}

}  // namespace emu
