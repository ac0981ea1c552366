// What a launch found wrong, with the kernel's source lines.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "device.h"

namespace emu {

// A place in a kernel: the return address of a call out of it. Null when there is none.
using Site = const void*;

struct Finding {
    std::string kind;       // one of a few fixed words: race, bounds, uninitialised, divergence, ...
    std::string message;    // what happened, in one line
    std::string where;      // file:line in the kernel, and in a header when it was inlined from there
    std::string other;      // the other side of a race, or empty
    uint3 block, thread;
    uint64_t count;         // how often the same was found
};

class Report {
  public:
    // Notes a finding, from any OS thread. The same kind at the same sites is kept once and counted.
    void add(const char* kind, const std::string& message, Site site, Site other, uint3 block, uint3 thread);
    const std::vector<Finding>& findings() const { return list; }
    // Past this many findings a launch ends: the rest would be consequences.
    bool is_full() {
        std::lock_guard<std::mutex> guard(lock);
        return list.size() >= 100;
    }

  private:
    std::mutex lock;
    std::vector<Finding> list;
    std::map<std::string, size_t> known;
};

// `file:line` of a call site; `file:line (in header:line, ..)` when the call was inlined from headers, the innermost first.
std::string describe_site(Site site);

}  // namespace emu
