#include "counters.h"

#include <algorithm>
#include <set>

namespace emu {

void Counters::note(uint32_t thread, Site site, uint64_t address, uint32_t bytes, bool is_global) {
    const uint32_t turn = turns[uint64_t(site) * 1031 + thread]++;
    open[{site, thread / 32, turn, is_global}].push_back({address, bytes, thread % 32});
}

// Passes over 32 banks for lanes that are served together: the most different words that fall on one bank.
static uint64_t passes(const std::vector<uint32_t>& words) {
    std::set<uint32_t> distinct(words.begin(), words.end());
    uint64_t load[32] = {}, most = 0;
    for (uint32_t w : distinct) most = std::max(most, ++load[w % 32]);
    return most;
}

void Counters::add_rows_of_matrix(const uint32_t (&addresses)[8]) {
    if (!counts_accesses) return;
    std::vector<uint32_t> words;
    for (uint32_t a : addresses) {
        for (uint32_t i = 0; i < 4; i++) words.push_back(a / 4 + i);
    }
    shared_accesses++;
    shared_passes += passes(words);
    shared_passes_needed++;
}

void Counters::flush() {
    for (auto& [key, lanes] : open) {
        if (key.is_global) {
            std::set<uint64_t> sectors, bytes;
            for (const Lane& l : lanes) {
                for (uint64_t b = l.address; b < l.address + l.bytes; b++) {
                    sectors.insert(b / 32);
                    bytes.insert(b);
                }
            }
            global_accesses++;
            global_sectors += sectors.size();
            global_sectors_needed += (bytes.size() + 31) / 32;
            continue;
        }
        // 128 bytes are served at a time: accesses of 8 bytes by half warps, of 16 bytes by quarters.
        shared_accesses++;
        const size_t together = std::max<size_t>(1, 32 / std::max<size_t>(1, lanes[0].bytes / 4));
        for (uint32_t first = 0; first < 32; first += uint32_t(together)) {
            std::vector<uint32_t> words;
            for (const Lane& l : lanes) {
                if (l.lane < first || l.lane >= first + together) continue;
                for (uint64_t b = l.address / 4; b * 4 < l.address + l.bytes; b++) words.push_back(uint32_t(b));
            }
            const std::set<uint32_t> distinct(words.begin(), words.end());
            shared_passes += passes(words);
            shared_passes_needed += (distinct.size() + 31) / 32;
        }
    }
    open.clear();
    turns.clear();
}

void Totals::add(const Totals& o) {
    switches += o.switches;
    collectives += o.collectives;
    matrix_products += o.matrix_products;
    global_accesses += o.global_accesses;
    global_sectors += o.global_sectors;
    global_sectors_needed += o.global_sectors_needed;
    shared_accesses += o.shared_accesses;
    shared_passes += o.shared_passes;
    shared_passes_needed += o.shared_passes_needed;
}

}  // namespace emu
