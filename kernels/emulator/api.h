// The emulator's C interface: what a host program, or a stand-in for the driver library, builds on.
//
// A device is a memory; modules are shared objects of kernels that link against this runtime. Nothing is global (the
// stand-in driver apart): several devices may be used at once, each by one thread at a time.
#pragma once

#include <cstdint>

extern "C" {

struct EmuDevice;
struct EmuModule;
struct EmuReport;

struct EmuSettings {
    uint64_t memory_bytes;   // capacity of the device
    uint64_t seed;           // 0: threads run in order; otherwise this seeds their random order
    uint32_t is_checked;     // 1: races, bounds, unwritten reads (modules compiled for it)
    uint32_t counts;         // 1: warp accesses are put together and counted (needs is_checked)
    uint32_t threads;        // OS threads a launch may use; a checked launch uses one
};

struct EmuFinding {
    const char *kind, *message, *where, *other;
    uint32_t block[3], thread[3];
    uint64_t count;
};

struct EmuCounters {
    uint64_t switches, collectives, matrix_products;
    uint64_t global_accesses, global_sectors, global_sectors_needed;
    uint64_t shared_accesses, shared_passes, shared_passes_needed;
};

EmuDevice* emu_device_open(const EmuSettings* settings);
void emu_device_close(EmuDevice* device);

// A device address, or 0 when the memory is used up.
uint64_t emu_allocate(EmuDevice* device, uint64_t bytes);
// These return 0, or 1 when the range is not inside one allocation.
int emu_release(EmuDevice* device, uint64_t address);
int emu_upload(EmuDevice* device, uint64_t to, const void* from, uint64_t bytes);
int emu_download(EmuDevice* device, void* to, uint64_t from, uint64_t bytes);
// On the device. What was never written stays so in the copy.
int emu_copy(EmuDevice* device, uint64_t to, uint64_t from, uint64_t bytes);
// `n` values of 1, 2 or 4 bytes.
int emu_fill(EmuDevice* device, uint64_t to, uint32_t value, uint32_t width, uint64_t n);
// Whether one allocation holds the range.
bool emu_holds(EmuDevice* device, uint64_t address, uint64_t bytes);
uint64_t emu_memory_used(EmuDevice* device);

// Null on failure, with the reason in `error`.
EmuModule* emu_module_open(const char* path, char* error, uint64_t error_bytes);
void emu_module_close(EmuModule* module);
// The number of the kernel's parameters and up to `limit` of their sizes; -1 when there is no such kernel.
int32_t emu_kernel_parameters(EmuModule* module, const char* kernel, uint32_t* sizes, uint32_t limit);

// Encodes a tensor map of 128 bytes, aligned to 64, for kernels of this emulator. The numbers and the checks are those of
// cuTensorMapEncodeTiled; `strides` are of all dimensions but the first, in bytes. 0, or 1 for an invalid value.
int emu_tile_map_encode(void* map, uint32_t type, uint32_t rank, uint64_t base, const uint64_t* dims,
                        const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                        uint32_t interleave, uint32_t swizzle, uint32_t fill);

// Runs a kernel to its end. The report is the caller's to close.
EmuReport* emu_launch(EmuDevice* device, EmuModule* module, const char* kernel, const uint32_t grid[3],
                      const uint32_t block[3], uint32_t dynamic_shared, const void* const* parameters);
uint64_t emu_report_count(const EmuReport* report);
void emu_report_finding(const EmuReport* report, uint64_t index, EmuFinding* out);
void emu_report_counters(const EmuReport* report, EmuCounters* out);
void emu_report_close(EmuReport* report);

// The stand-in driver (driver/), whose entry points are those of CUDA's driver API, has one device and one context.
//
// How its device shall be; without memory there is none. To be called before the context is made: 1 when that is so.
int emu_driver_configure(const EmuSettings* settings);
// What was found since the last call, a line each; empty when nothing was. Valid until the thread's next call.
const char* emu_driver_findings();
// Launches since the last call, and their sum.
uint64_t emu_driver_counters(EmuCounters* out);
}
