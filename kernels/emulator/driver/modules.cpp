// Modules, their functions, and what of a multiprocessor a function takes.
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "driver.h"

namespace emu::driver {

constexpr uint32_t MAX_DYNAMIC_SHARED = 227 * 1024, SHARED_OF_PROCESSOR = 228 * 1024, SHARED_RESERVED = 1024;

// The driver is given an image without its length: a shared object ends with its last section or its section table.
static size_t image_bytes(const uint8_t* image) {
    Elf64_Ehdr head;
    memcpy(&head, image, sizeof head);
    size_t end = head.e_shoff + size_t(head.e_shnum) * sizeof(Elf64_Shdr);
    for (size_t i = 0; i < head.e_shnum; i++) {
        Elf64_Shdr section;
        memcpy(&section, image + head.e_shoff + i * sizeof section, sizeof section);
        if (section.sh_type != SHT_NOBITS) end = std::max<size_t>(end, section.sh_offset + section.sh_size);
    }
    return end;
}

// Why these bytes are not a module of kernels for the emulator.
static CUresult refusal(const uint8_t* image) {
    if (memcmp(image, ELFMAG, SELFMAG) || image[EI_CLASS] != ELFCLASS64) return CUDA_ERROR_INVALID_IMAGE;
    Elf64_Ehdr head;
    memcpy(&head, image, sizeof head);
    if (head.e_machine != EM_X86_64) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    const bool is_whole = head.e_type == ET_DYN && head.e_shentsize == sizeof(Elf64_Shdr) && head.e_shnum;
    return is_whole ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
}

// Loads an image from memory. It stays for the life of the process: its symbols may be shared with other modules, its
// path tells addresses apart in findings, and the same image is loaded again with every context.
static EmuModule* load(const uint8_t* image, size_t bytes) {
    static std::map<std::string, EmuModule*> loaded;
    const std::string content(reinterpret_cast<const char*>(image), bytes);
    const auto known = loaded.find(content);
    if (known != loaded.end()) return known->second;
    const int file = memfd_create("kernels", MFD_CLOEXEC);
    for (size_t at = 0; file >= 0 && at < bytes;) {
        const ssize_t n = write(file, image + at, bytes - at);
        if (n <= 0) break;
        at += size_t(n);
    }
    // With the process's number, so that addr2line can read it too.
    const std::string path = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file);
    char reason[512];
    EmuModule* module = file < 0 ? nullptr : emu_module_open(path.c_str(), reason, sizeof reason);
    if (module) return loaded[content] = module;
    note(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, file < 0 ? "module: no file in memory" : std::string("module: ") + reason);
    if (file >= 0) close(file);
    return nullptr;
}

// Blocks that fit a multiprocessor. Registers are not known, so they set no limit.
static int blocks_per_processor(int threads, size_t dynamic_shared) {
    if (threads < 1 || threads > 1024 || dynamic_shared > MAX_DYNAMIC_SHARED) return 0;
    const int warps = (threads + 31) / 32;
    const size_t by_shared = SHARED_OF_PROCESSOR / (dynamic_shared + SHARED_RESERVED);
    return int(std::min<size_t>({32, size_t(64 / warps), by_shared}));
}

int resident_blocks(int threads, size_t dynamic_shared) { return 132 * blocks_per_processor(threads, dynamic_shared); }

template <class Body> static CUresult function_call(CUfunction handle, Body body) {
    return call(Needs::context, [&](State& state) {
        const auto entry = state.functions.find(handle);
        return entry == state.functions.end() ? CUDA_ERROR_INVALID_HANDLE : body(*entry->second);
    });
}

DRIVER_API cuModuleLoadData(CUmodule* out, const void* data) {
    return call(Needs::context, [&](State& state) {
        const auto* image = static_cast<const uint8_t*>(data);
        if (!image) return CUDA_ERROR_INVALID_VALUE;
        if (const CUresult why = refusal(image)) return why;
        EmuModule* module = load(image, image_bytes(image));
        if (!module) return CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
        return *out = state.modules.add(std::shared_ptr<Module>(new Module{module, {}})), CUDA_SUCCESS;
    });
}

DRIVER_API cuModuleUnload(CUmodule handle) {
    return call(Needs::cleanup, [&](State& state) {
        const auto module = state.modules.find(handle);
        if (!module) return CUDA_ERROR_INVALID_HANDLE;
        for (const auto& [name, function] : module->functions) state.functions.erase(function.get());
        state.modules.remove(handle);
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuModuleGetFunction(CUfunction* out, CUmodule handle, const char* name) {
    return call(Needs::context, [&](State& state) {
        const auto module = state.modules.find(handle);
        if (!module) return CUDA_ERROR_INVALID_HANDLE;
        const int32_t count = emu_kernel_parameters(module->image, name, nullptr, 0);
        if (count < 0) return CUDA_ERROR_NOT_FOUND;
        auto& function = module->functions[name];
        if (!function) {
            function.reset(new Function{module->image, name, std::vector<uint32_t>(size_t(count))});
            emu_kernel_parameters(module->image, name, function->sizes.data(), uint32_t(count));
            state.functions[function.get()] = function.get();
        }
        return *out = function.get(), CUDA_SUCCESS;
    });
}

// What the host compiler does not tell (registers, static shared memory, local memory) is 0.
DRIVER_API cuFuncGetAttribute(int* value, FunctionAttribute attribute, CUfunction handle) {
    return function_call(handle, [&](Function& function) {
        switch (attribute) {
            case FUNCTION_MAX_THREADS_PER_BLOCK: *value = 1024; break;
            case FUNCTION_PTX_VERSION: case FUNCTION_BINARY_VERSION: *value = 90; break;
            case FUNCTION_MAX_DYNAMIC_SHARED_BYTES: *value = int(function.max_dynamic_shared); break;
            case FUNCTION_SHARED_CARVEOUT: *value = -1; break;
            default: *value = 0;
        }
        return CUDA_SUCCESS;
    });
}

DRIVER_API cuFuncSetAttribute(CUfunction handle, FunctionAttribute attribute, int value) {
    return function_call(handle, [&](Function& function) {
        if (attribute == FUNCTION_SHARED_CARVEOUT) return CUDA_SUCCESS;
        if (attribute != FUNCTION_MAX_DYNAMIC_SHARED_BYTES) return CUDA_ERROR_NOT_SUPPORTED;
        if (value < 0 || uint32_t(value) > MAX_DYNAMIC_SHARED) return CUDA_ERROR_INVALID_VALUE;
        return function.max_dynamic_shared = uint32_t(value), CUDA_SUCCESS;
    });
}

DRIVER_API cuFuncSetCacheConfig(CUfunction handle, uint32_t) {
    return function_call(handle, [](Function&) { return CUDA_SUCCESS; });
}

DRIVER_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction handle, int threads,
                                                                size_t dynamic_shared, uint32_t) {
    return function_call(handle, [&](Function&) {
        return *blocks = blocks_per_processor(threads, dynamic_shared), CUDA_SUCCESS;
    });
}

DRIVER_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction handle, int threads, size_t shared) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, handle, threads, shared, 0);
}

DRIVER_API cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, CUfunction handle, int blocks, int threads) {
    return function_call(handle, [&](Function&) {
        if (blocks < 1 || blocks > blocks_per_processor(threads, 0)) return CUDA_ERROR_INVALID_VALUE;
        const size_t share = SHARED_OF_PROCESSOR / size_t(blocks) - SHARED_RESERVED;
        return *bytes = std::min<size_t>(share, MAX_DYNAMIC_SHARED), CUDA_SUCCESS;
    });
}

}  // namespace emu::driver
