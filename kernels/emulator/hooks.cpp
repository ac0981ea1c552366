// Every load and store of a kernel that was compiled with -fsanitize=thread. The compiler calls these functions; the
// thread sanitizer's own library, which would otherwise provide them, is not linked.
#include "block.h"

using emu::Access;

static inline void access(const void* p, uint32_t bytes, Access kind, const void* site) {
    if (emu::Block* block = emu::executing()) block->touch(p, bytes, kind, site);
}

#define HOOK __attribute__((visibility("default")))
#define HOOKS(n)                                                                                                       \
    HOOK void __tsan_read##n(void* p) { access(p, n, Access::read, __builtin_return_address(0)); }                   \
    HOOK void __tsan_write##n(void* p) { access(p, n, Access::write, __builtin_return_address(0)); }                 \
    HOOK void __tsan_unaligned_read##n(void* p) { access(p, n, Access::read, __builtin_return_address(0)); }         \
    HOOK void __tsan_unaligned_write##n(void* p) { access(p, n, Access::write, __builtin_return_address(0)); }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

// Copies of structures, byte by byte: they have no alignment of their own.
HOOK void __tsan_read_range(void* p, unsigned long n) {
    for (unsigned long i = 0; i < n; i++) access(static_cast<char*>(p) + i, 1, Access::read, __builtin_return_address(0));
}
HOOK void __tsan_write_range(void* p, unsigned long n) {
    for (unsigned long i = 0; i < n; i++) access(static_cast<char*>(p) + i, 1, Access::write, __builtin_return_address(0));
}
HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
}
