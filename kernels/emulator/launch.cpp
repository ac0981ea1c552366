// Devices, modules and launches behind the C interface.
#include "api.h"

#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <thread>

#include "block.h"

using namespace emu;

struct EmuDevice {
    EmuSettings settings;
    Memory memory;
    uint64_t launches = 0;
};

struct EmuModule {
    void* handle;
    uintptr_t start = 0, end = 0;
};

struct EmuReport {
    Report report;
    Totals totals;
};

#define API extern "C" __attribute__((visibility("default")))

API EmuDevice* emu_device_open(const EmuSettings* settings) {
    return new EmuDevice{*settings, Memory(settings->memory_bytes, settings->is_checked)};
}

API void emu_device_close(EmuDevice* device) { delete device; }

API uint64_t emu_allocate(EmuDevice* device, uint64_t bytes) { return device->memory.allocate(bytes); }

API int emu_release(EmuDevice* device, uint64_t address) { return device->memory.release(address) ? 0 : 1; }

API int emu_upload(EmuDevice* device, uint64_t to, const void* from, uint64_t bytes) {
    Allocation* a = device->memory.find(to);
    if (!a || !a->holds(to, bytes)) return 1;
    memcpy(reinterpret_cast<void*>(to), from, bytes);
    a->mark(to, bytes, Byte::written);
    return 0;
}

API int emu_download(EmuDevice* device, void* to, uint64_t from, uint64_t bytes) {
    Allocation* a = device->memory.find(from);
    if (!a || !a->holds(from, bytes)) return 1;
    memcpy(to, reinterpret_cast<const void*>(from), bytes);
    return 0;
}

API int emu_copy(EmuDevice* device, uint64_t to, uint64_t from, uint64_t bytes) {
    Allocation *a = device->memory.find(to), *b = device->memory.find(from);
    if (!a || !b || !a->holds(to, bytes) || !b->holds(from, bytes)) return 1;
    memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
    if (!a->state.empty()) memmove(&a->state[to - a->address], &b->state[from - b->address], bytes);
    return 0;
}

API int emu_fill(EmuDevice* device, uint64_t to, uint32_t value, uint32_t width, uint64_t n) {
    Allocation* a = device->memory.find(to);
    if (!a || !a->holds(to, n * width)) return 1;
    auto* start = reinterpret_cast<char*>(to);
    if (width == 1) memset(start, int(value), n);
    else for (uint64_t i = 0; i < n; i++) memcpy(start + i * width, &value, width);
    a->mark(to, n * width, Byte::written);
    return 0;
}

API bool emu_holds(EmuDevice* device, uint64_t address, uint64_t bytes) {
    Allocation* a = device->memory.find(address);
    return a && a->holds(address, bytes);
}

API uint64_t emu_memory_used(EmuDevice* device) { return device->memory.in_use(); }

// The span of addresses that the module's segments take.
static int find_span(dl_phdr_info* info, size_t, void* data) {
    auto* module = static_cast<EmuModule*>(data);
    if (info->dlpi_addr != module->start) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto& segment = info->dlpi_phdr[i];
        const uintptr_t end = info->dlpi_addr + segment.p_vaddr + segment.p_memsz;
        if (segment.p_type == PT_LOAD && end > module->end) module->end = end;
    }
    return 1;
}

API EmuModule* emu_module_open(const char* path, char* error, uint64_t error_bytes) {
    void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    link_map* map = nullptr;
    if (!handle || dlinfo(handle, RTLD_DI_LINKMAP, &map)) {
        snprintf(error, error_bytes, "%s", dlerror());
        return nullptr;
    }
    auto* module = new EmuModule{handle, map->l_addr, 0};
    dl_iterate_phdr(find_span, module);
    return module;
}

API void emu_module_close(EmuModule* module) {
    dlclose(module->handle);
    delete module;
}

static const Kernel* find_kernel(EmuModule* module, const char* name) {
    return static_cast<const Kernel*>(dlsym(module->handle, (std::string("emulated_") + name).c_str()));
}

API int32_t emu_kernel_parameters(EmuModule* module, const char* name, uint32_t* sizes, uint32_t limit) {
    const Kernel* kernel = find_kernel(module, name);
    if (!kernel) return -1;
    for (uint32_t i = 0; i < kernel->count && i < limit; i++) sizes[i] = kernel->sizes[i];
    return int32_t(kernel->count);
}

// What the hardware refuses; an empty string when the launch can run.
static std::string refusal(const Launch& l) {
    const uint64_t threads = uint64_t(l.block.x) * l.block.y * l.block.z;
    if (threads == 0 || threads > MAX_THREADS || l.block.x > 1024 || l.block.y > 1024 || l.block.z > 64) {
        return "a block has 1 to 1024 threads, at most 64 of them in z";
    }
    if (!l.grid.x || !l.grid.y || !l.grid.z || l.grid.x > 0x7fffffff || l.grid.y > 65535 || l.grid.z > 65535) {
        return "a grid has at least 1 and at most 2147483647 x 65535 x 65535 blocks";
    }
    if (l.dynamic_shared > MAX_SHARED) return "a block has at most 232448 bytes of shared memory";
    return "";
}

// Blocks in order, or with a seed in an order of its own: a number that shares no factor with the count steps through.
static uint64_t step_through(uint64_t count, uint64_t seed) {
    auto gcd = [](uint64_t a, uint64_t b) {
        while (b) {
            const uint64_t r = a % b;
            a = b;
            b = r;
        }
        return a;
    };
    uint64_t step = seed ? seed * 0x9E3779B1ull % count + 1 : 1;
    while (gcd(step, count) != 1) step++;
    return step;
}

static void check_guards(EmuDevice* device, EmuReport* result) {
    for (auto& [address, a] : device->memory.all()) {
        int64_t offset;
        if (a.guard_reported || !a.damage(&offset)) continue;
        a.guard_reported = true;
        const std::string side = offset < 0 ? std::to_string(-offset) + " bytes before the start"
                                            : std::to_string(offset - int64_t(a.bytes)) + " bytes past the end";
        result->report.add("bounds", "the kernel wrote " + side + " of an allocation of " + std::to_string(a.bytes) +
                                         " bytes; the checking mode names the line", nullptr, nullptr, {}, {});
    }
}

API EmuReport* emu_launch(EmuDevice* device, EmuModule* module, const char* name, const uint32_t grid[3],
                             const uint32_t block[3], uint32_t dynamic_shared, const void* const* parameters) {
    auto* result = new EmuReport;
    const EmuSettings& settings = device->settings;
    Launch launch{find_kernel(module, name), parameters, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                  dynamic_shared, &device->memory, &result->report, ++device->launches, settings.seed,
                  settings.is_checked != 0, module->start, module->end};
    const std::string why = launch.kernel ? refusal(launch) : std::string("no kernel `") + name + "` in the module";
    if (!why.empty()) {
        result->report.add("launch", why, nullptr, nullptr, {}, {});
        return result;
    }

    const uint64_t count = uint64_t(grid[0]) * grid[1] * grid[2], step = step_through(count, settings.seed);
    std::atomic<uint64_t> next{0};
    std::atomic<bool> stop{false};
    std::mutex lock;
    auto work = [&] {
        Block executor;
        Counters counters(settings.is_checked && settings.counts);
        for (uint64_t i; !stop && (i = next++) < count;) {
            const uint64_t b = i * step % count;
            const uint3 index = {uint32_t(b % grid[0]), uint32_t(b / grid[0] % grid[1]), uint32_t(b / grid[0] / grid[1])};
            if (!executor.run(launch, index, counters)) stop = true;
        }
        std::lock_guard<std::mutex> guard(lock);
        result->totals.add(counters);
    };
    const uint64_t wanted = settings.is_checked ? 1 : settings.threads;
    std::vector<std::thread> others;
    for (uint64_t i = 1; i < wanted && i < count; i++) others.emplace_back(work);
    work();
    for (std::thread& t : others) t.join();
    check_guards(device, result);
    return result;
}

API uint64_t emu_report_count(const EmuReport* report) { return report->report.findings().size(); }

API void emu_report_finding(const EmuReport* report, uint64_t index, EmuFinding* out) {
    const Finding& f = report->report.findings()[index];
    *out = {f.kind.c_str(), f.message.c_str(), f.where.c_str(), f.other.c_str(), {f.block.x, f.block.y, f.block.z},
            {f.thread.x, f.thread.y, f.thread.z}, f.count};
}

API void emu_report_counters(const EmuReport* report, EmuCounters* out) {
    const Totals& t = report->totals;
    *out = {t.switches, t.collectives, t.matrix_products, t.global_accesses, t.global_sectors, t.global_sectors_needed,
            t.shared_accesses, t.shared_passes, t.shared_passes_needed};
}

API void emu_report_close(EmuReport* report) { delete report; }
