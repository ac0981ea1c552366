// Names and texts of results, and what the emulator found: for the host program to fetch.
#include "driver.h"

namespace emu::driver {

static std::mutex notes_lock;
static std::string notes;
static uint64_t launches;
static EmuCounters counted;

CUresult note(CUresult error, const std::string& text) {
    std::lock_guard<std::mutex> guard(notes_lock);
    if (!notes.empty()) notes += '\n';
    notes += text;
    return error;
}

void count_launch(const EmuCounters& c) {
    std::lock_guard<std::mutex> guard(notes_lock);
    launches++;
    counted.switches += c.switches;
    counted.collectives += c.collectives;
    counted.matrix_products += c.matrix_products;
    counted.global_accesses += c.global_accesses;
    counted.global_sectors += c.global_sectors;
    counted.global_sectors_needed += c.global_sectors_needed;
    counted.shared_accesses += c.shared_accesses;
    counted.shared_passes += c.shared_passes;
    counted.shared_passes_needed += c.shared_passes_needed;
}

static CUresult describe(CUresult code, const char** out, const char* success, bool wants_name) {
    switch (code) {
        case CUDA_SUCCESS: return *out = success, CUDA_SUCCESS;
#define E(code, name, text)                                                                                            \
    case CUDA_ERROR_##name: return *out = wants_name ? "CUDA_ERROR_" #name : text, CUDA_SUCCESS;
            VITSCOPE_CUDA_ERRORS(E)
#undef E
    }
    *out = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
}

DRIVER_API cuGetErrorName(CUresult code, const char** name) { return describe(code, name, "CUDA_SUCCESS", true); }
DRIVER_API cuGetErrorString(CUresult code, const char** text) { return describe(code, text, "no error", false); }

extern "C" __attribute__((visibility("default"))) const char* emu_driver_findings() {
    static thread_local std::string taken;
    std::lock_guard<std::mutex> guard(notes_lock);
    taken.clear();
    taken.swap(notes);
    return taken.c_str();
}

extern "C" __attribute__((visibility("default"))) uint64_t emu_driver_counters(EmuCounters* out) {
    std::lock_guard<std::mutex> guard(notes_lock);
    *out = counted;
    counted = {};
    const uint64_t n = launches;
    launches = 0;
    return n;
}

}  // namespace emu::driver
