#include "races.h"

#include <algorithm>
#include <cstring>

namespace emu {

void Clocks::reset(uint32_t count) {
    threads = count;
    columns = threads + 1 + (threads + 127) / 128 + (threads + 31) / 32;
    fences.assign(threads, {});
    engine_clock = 0;
    is_full = false;
    values.assign(size_t(columns) * columns, 0);
    for (uint32_t i = 0; i < columns; i++) of(i)[i] = 1;
}

void Clocks::advance(uint32_t thread) {
    if (++of(thread)[thread] >> Stamp::CLOCK_BITS) is_full = true;
}

void Clocks::meet(const uint32_t* threads, uint32_t count) {
    joined.assign(columns, 0);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t* v = of(threads[i]);
        for (uint32_t c = 0; c < columns; c++) joined[c] = std::max(joined[c], v[c]);
    }
    for (uint32_t i = 0; i < count; i++) {
        memcpy(of(threads[i]), joined.data(), columns * sizeof(uint32_t));
        advance(threads[i]);
    }
}

void Clocks::release(uint32_t thread, std::vector<uint32_t>& into) {
    into.resize(columns, 0);
    const uint32_t* v = of(thread);
    for (uint32_t c = 0; c < columns; c++) into[c] = std::max(into[c], v[c]);
    advance(thread);
}

void Clocks::acquire(uint32_t thread, const std::vector<uint32_t>& from) {
    uint32_t* v = of(thread);
    for (size_t c = 0; c < from.size(); c++) v[c] = std::max(v[c], from[c]);
}

uint32_t Clocks::engine_step() {
    if (++engine_clock >> Stamp::CLOCK_BITS) is_full = true;
    return engine_clock;
}

std::string Clocks::name(uint32_t unit) const {
    if (is_thread(unit)) return "thread " + std::to_string(unit);
    if (unit == engine()) return "the copy engine";
    if (unit < store_engine(0)) return "the tensor cores of warpgroup " + std::to_string(unit - tensor_cores(0));
    return "the copy engine, storing for warp " + std::to_string(unit - store_engine(0));
}

uint32_t Clocks::begin(uint32_t unit, const uint32_t* issuers, uint32_t count) {
    uint32_t* known = of(unit);
    const uint32_t step = known[unit] + 1;
    memcpy(known, of(issuers[0]), columns * sizeof(uint32_t));
    for (uint32_t i = 1; i < count; i++) {
        const uint32_t* v = of(issuers[i]);
        for (uint32_t c = 0; c < columns; c++) known[c] = std::min(known[c], v[c]);
    }
    known[unit] = step;
    if (step >> Stamp::CLOCK_BITS) is_full = true;
    return step;
}

void Clocks::finish(uint32_t thread, uint32_t unit, uint32_t step) {
    uint32_t& known = of(thread)[unit];
    known = std::max(known, step);
}

void Clocks::fence(uint32_t thread) {
    fences[thread].push_back(now(thread));
    advance(thread);
}

bool Clocks::is_fenced(uint32_t stamp, uint32_t unit) {
    const uint32_t by = Stamp::thread(stamp);
    if (!is_thread(by)) return true;
    const auto fence = std::lower_bound(fences[by].begin(), fences[by].end(), Stamp::clock(stamp));
    return fence != fences[by].end() && *fence < of(unit)[by];
}

void SharedCells::reset(uint32_t bytes) {
    cells.assign(bytes / 2 + 1, SharedCell{});
    readers.clear();
    free_readers.clear();
}

// From the third unordered reader on, a vector of the clocks at which each thread read.
void SharedCells::note_reader(SharedCell& cell, uint32_t stamp, uint32_t site, uint32_t thread, Clocks& clocks) {
    const uint32_t width = clocks.width();
    if (cell.reader & Stamp::MANY) {
        readers[size_t(cell.reader & ~Stamp::MANY) * width + thread] = stamp;
        cell.reader_site = site;
    } else if (!cell.reader || clocks.is_before(cell.reader, thread)) {
        cell.reader = stamp;
        cell.reader_site = site;
    } else if (!cell.second || clocks.is_before(cell.second, thread)) {
        cell.second = stamp;
        cell.second_site = site;
    } else {
        uint32_t index;
        if (free_readers.empty()) {
            index = uint32_t(readers.size() / width);
            readers.resize(readers.size() + width, 0);
        } else {
            index = free_readers.back();
            free_readers.pop_back();
            std::fill_n(readers.begin() + size_t(index) * width, width, 0);
        }
        for (uint32_t earlier : {cell.reader, cell.second}) readers[size_t(index) * width + Stamp::thread(earlier)] = earlier;
        readers[size_t(index) * width + thread] = stamp;
        cell.reader = Stamp::MANY | index;
        cell.reader_site = site;
        cell.second = 0;
    }
}

Conflict SharedCells::touch(uint32_t offset, uint32_t bytes, Access kind, uint32_t thread, uint32_t site, Clocks& clocks) {
    Conflict conflict;
    const uint32_t end = offset + bytes;
    for (uint32_t at = offset & ~1u; at < end; at += 2) {
        SharedCell& cell = cells[at / 2];
        const uint32_t mask = (at >= offset ? 1 : 0) | (at + 1 < end ? 2 : 0);
        const uint32_t stamp = Stamp::pack(thread, clocks.now(thread), mask, kind == Access::atomic);
        auto clashes = [&](uint32_t other) {
            return other && (Stamp::bytes(other) & mask) && !clocks.is_before(other, thread) &&
                   !(kind == Access::atomic && Stamp::is_atomic(other));
        };
        if (clashes(cell.writer)) conflict = {true, true, Stamp::thread(cell.writer), cell.writer_site};
        if (kind == Access::read) {
            note_reader(cell, stamp, site, thread, clocks);
            continue;
        }
        if (cell.reader & Stamp::MANY) {
            const uint32_t index = cell.reader & ~Stamp::MANY;
            for (uint32_t t = 0; t < clocks.width(); t++) {
                const uint32_t other = readers[size_t(index) * clocks.width() + t];
                if (clashes(other)) conflict = {true, false, t, cell.reader_site};
            }
            free_readers.push_back(index);
        } else if (clashes(cell.reader)) {
            conflict = {true, false, Stamp::thread(cell.reader), cell.reader_site};
        } else if (clashes(cell.second)) {
            conflict = {true, false, Stamp::thread(cell.second), cell.second_site};
        }
        cell = {stamp, site, 0, 0, 0, 0};
    }
    return conflict;
}

void SharedCells::own(uint32_t offset, uint32_t bytes, uint32_t thread, uint32_t clock, uint32_t site) {
    for (uint32_t at = offset & ~1u; at < offset + bytes; at += 2) {
        cells[at / 2] = {Stamp::pack(thread, clock, 3, false), site, 0, 0, 0, 0};
    }
}

Conflict SharedCells::unfenced(uint32_t offset, uint32_t bytes, uint32_t unit, Clocks& clocks) {
    uint32_t checked = 0;   // neighbours mostly have the same writer
    for (uint32_t at = offset & ~1u; at < offset + bytes; at += 2) {
        const SharedCell& cell = cells[at / 2];
        if (!cell.writer || cell.writer == checked) continue;
        if (!clocks.is_fenced(cell.writer, unit)) return {true, true, Stamp::thread(cell.writer), cell.writer_site};
        checked = cell.writer;
    }
    return {};
}

}  // namespace emu
