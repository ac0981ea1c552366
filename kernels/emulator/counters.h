// What a launch cost in a GPU's terms: warp accesses, memory sectors and shared memory wavefronts.
//
// Fibres do not run in step, so a warp's access is put together afterwards: the k-th time a lane comes to an
// instruction belongs with the k-th time of the other lanes.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "report.h"

namespace emu {

struct Totals {
    uint64_t switches = 0, collectives = 0, matrix_products = 0;
    // Warp accesses to global memory, the 32-byte sectors they touch, and the fewest that could hold their bytes.
    uint64_t global_accesses = 0, global_sectors = 0, global_sectors_needed = 0;
    // The same for shared memory, in passes of 32 banks of 4 bytes.
    uint64_t shared_accesses = 0, shared_passes = 0, shared_passes_needed = 0;

    void add(const Totals& other);
};

class Counters : public Totals {
  public:
    explicit Counters(bool counts_accesses) : counts_accesses(counts_accesses) {}
    void note_global(uint32_t thread, Site site, uint64_t address, uint32_t bytes) {
        if (counts_accesses) note(thread, site, address, bytes, true);
    }
    void note_shared(uint32_t thread, Site site, uint32_t address, uint32_t bytes) {
        if (counts_accesses) note(thread, site, address, bytes, false);
    }
    // The 8 rows of 16 bytes of one matrix of ldmatrix, one pass when they lie in different banks.
    void add_rows_of_matrix(const uint32_t (&addresses)[8]);
    // The end of a block: what was put together so far is counted.
    void flush();

  private:
    struct Lane {
        uint64_t address;
        uint32_t bytes, lane;
    };
    struct Key {
        Site site;
        uint32_t warp, turn;
        bool is_global;
        bool operator==(const Key& o) const {
            return site == o.site && warp == o.warp && turn == o.turn && is_global == o.is_global;
        }
    };
    struct Hash {
        size_t operator()(const Key& k) const {
            return (uint64_t(k.site) * 31 + k.warp * 7919 + k.turn) * 0x9E3779B97F4A7C15ull >> 7;
        }
    };
    void note(uint32_t thread, Site site, uint64_t address, uint32_t bytes, bool is_global);
    bool counts_accesses;
    std::unordered_map<Key, std::vector<Lane>, Hash> open;
    std::unordered_map<uint64_t, uint32_t> turns;   // how often a thread came to a site
};

}  // namespace emu
