// Kernel launches: checked and copied at the call, run by the emulator at their turn.
#include <cstring>

#include "driver.h"

namespace emu::driver {

// A launch's parameters, copied. Each is aligned as a tensor map must be.
struct Parameters {
    static constexpr size_t ALIGNMENT = 128;

    Parameters(const std::vector<uint32_t>& sizes, void** values) {
        std::vector<size_t> offsets;
        size_t bytes = 0;
        for (uint32_t size : sizes) {
            offsets.push_back(bytes);
            bytes += (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
        }
        storage.reset(new (std::align_val_t(ALIGNMENT)) uint8_t[bytes + 1]);
        for (size_t i = 0; i < sizes.size(); i++) {
            memcpy(storage.get() + offsets[i], values[i], sizes[i]);
            pointers.push_back(storage.get() + offsets[i]);
        }
    }

    struct Free {
        void operator()(uint8_t* p) const { ::operator delete[](p, std::align_val_t(ALIGNMENT)); }
    };
    std::unique_ptr<uint8_t[], Free> storage;
    std::vector<const void*> pointers;
};

static std::string describe(const EmuFinding& f) {
    auto triple = [](const uint32_t (&v)[3]) {
        return "[" + std::to_string(v[0]) + ", " + std::to_string(v[1]) + ", " + std::to_string(v[2]) + "]";
    };
    const std::string place = *f.where ? f.where : "launch", other = *f.other ? std::string(" at ") + f.other : "";
    return place + ": " + f.kind + ": " + f.message + other + "; block " + triple(f.block) + " thread " +
           triple(f.thread) + ", " + std::to_string(f.count) + " times";
}

// Runs the kernel. What the emulator finds is noted and breaks the context.
static CUresult execute(State& state, EmuModule* module, const std::string& name, const CUlaunchConfig& config,
                        const Parameters& parameters) {
    EmuReport* report = emu_launch(state.device, module, name.c_str(), config.grid, config.block,
                                   config.dynamic_shared, parameters.pointers.data());
    EmuCounters counters;
    emu_report_counters(report, &counters);
    count_launch(counters);
    CUresult result = CUDA_SUCCESS;
    for (uint64_t i = 0; i < emu_report_count(report); i++) {
        EmuFinding finding;
        emu_report_finding(report, i, &finding);
        result = note(CUDA_ERROR_LAUNCH_FAILED, (i ? "" : "kernel " + name + ":\n") + describe(finding));
    }
    emu_report_close(report);
    return result;
}

// What the driver refuses at the call.
static CUresult refusal(const CUlaunchConfig& c, const Function& function, void** values, void** extra) {
    const auto [gx, gy, gz] = c.grid;
    const auto [bx, by, bz] = c.block;
    if (extra) return CUDA_ERROR_NOT_SUPPORTED;
    if (!values && !function.sizes.empty()) return CUDA_ERROR_INVALID_VALUE;
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535) return CUDA_ERROR_INVALID_VALUE;
    if (!bx || !by || !bz || bx > 1024 || by > 1024 || bz > 64 || bx * by * bz > 1024) return CUDA_ERROR_INVALID_VALUE;
    if (c.dynamic_shared > function.max_dynamic_shared) return CUDA_ERROR_INVALID_VALUE;
    bool is_cooperative = false;
    for (uint32_t i = 0; i < c.attribute_count; i++) {
        const CUlaunchAttribute& attribute = c.attributes[i];
        switch (attribute.id) {
            case LAUNCH_IGNORE: case LAUNCH_ACCESS_POLICY_WINDOW: case LAUNCH_CLUSTER_SCHEDULING: case LAUNCH_PRIORITY:
            case LAUNCH_PROGRAMMATIC_STREAM_SERIALIZATION: break;
            case LAUNCH_COOPERATIVE: is_cooperative = attribute.cooperative; break;
            case LAUNCH_CLUSTER_DIMENSION:
                if (attribute.cluster.x * attribute.cluster.y * attribute.cluster.z == 1) break;
                return CUDA_ERROR_NOT_SUPPORTED;
            default: return CUDA_ERROR_NOT_SUPPORTED;
        }
    }
    const uint64_t blocks = uint64_t(gx) * gy * gz;
    if (is_cooperative && blocks > uint64_t(resident_blocks(int(bx * by * bz), c.dynamic_shared))) {
        return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    }
    return CUDA_SUCCESS;
}

static CUresult launch(const CUlaunchConfig& config, CUfunction handle, void** values, void** extra) {
    return call(Needs::context, [&](State& state) {
        const auto stream = state.stream(config.stream);
        const auto entry = state.functions.find(handle);
        if (!stream || entry == state.functions.end()) return CUDA_ERROR_INVALID_HANDLE;
        const Function& function = *entry->second;
        if (const CUresult why = refusal(config, function, values, extra)) return why;
        const auto parameters = std::make_shared<Parameters>(function.sizes, values);
        return state.enqueue(stream, [=, module = function.module, name = function.name](State& state) {
            return execute(state, module, name, config, *parameters);
        });
    });
}

DRIVER_API cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** values, void** extra) {
    return launch(*config, function, values, extra);
}

DRIVER_API cuLaunchKernel(CUfunction function, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t bx, uint32_t by, uint32_t bz,
                          uint32_t dynamic_shared, CUstream stream, void** values, void** extra) {
    return launch({{gx, gy, gz}, {bx, by, bz}, dynamic_shared, stream, nullptr, 0}, function, values, extra);
}

DRIVER_API cuLaunchCooperativeKernel(CUfunction function, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t bx, uint32_t by,
                                     uint32_t bz, uint32_t dynamic_shared, CUstream stream, void** values) {
    CUlaunchAttribute cooperative = {};
    cooperative.id = LAUNCH_COOPERATIVE;
    cooperative.cooperative = 1;
    return launch({{gx, gy, gz}, {bx, by, bz}, dynamic_shared, stream, &cooperative, 1}, function, values, nullptr);
}

}  // namespace emu::driver
