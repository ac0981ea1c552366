// Findings and the names of their source lines, which addr2line of the host's binutils knows.
#include "report.h"

#include <dlfcn.h>

#include <cstdio>

namespace emu {

void Report::add(const char* kind, const std::string& message, Site site, Site other, uint3 block, uint3 thread) {
    const std::string where = describe_site(site), there = describe_site(other);
    std::lock_guard<std::mutex> guard(lock);
    const auto [entry, is_new] = known.try_emplace(std::string(kind) + where + there, list.size());
    if (!is_new) {
        list[entry->second].count++;
        return;
    }
    list.push_back({kind, message, where, there, block, thread, 1});
}

// addr2line's frames, innermost first. A module lies under a path of our own making, free of quotes.
static std::vector<std::string> frames(const char* module, uintptr_t offset) {
    char command[4096];
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", module, size_t(offset));
    std::vector<std::string> lines;
    FILE* pipe = popen(command, "r");
    if (!pipe) return lines;
    char line[2048];
    while (fgets(line, sizeof line, pipe)) {
        std::string text(line);
        text = text.substr(0, text.find_first_of(" \n"));
        if (text.find("??") == std::string::npos) lines.push_back(text);
    }
    pclose(pipe);
    return lines;
}

static std::string look_up(Site site) {
    Dl_info info;
    if (!dladdr(site, &info)) return "unknown";
    // The call lies before its return address.
    const uintptr_t offset = uintptr_t(site) - uintptr_t(info.dli_fbase) - 1;
    const auto lines = frames(info.dli_fname, offset);
    std::string headers;
    for (const auto& line : lines) {
        if (line.find("include/") == std::string::npos) return headers.empty() ? line : line + " (in " + headers + ")";
        headers += (headers.empty() ? "" : ", ") + line;
    }
    if (!lines.empty()) return lines[0];
    char text[2048];
    snprintf(text, sizeof text, "%s+0x%zx (no line: is addr2line of binutils installed?)", info.dli_fname, size_t(offset));
    return text;
}

std::string describe_site(Site site) {
    if (!site) return "";
    // A module may be unloaded and another take its addresses, so its load address is part of what is remembered.
    static std::mutex lock;
    static std::map<std::pair<std::string, Site>, std::string> known;
    Dl_info info;
    const std::string module = dladdr(site, &info) ? info.dli_fname : "";
    std::lock_guard<std::mutex> guard(lock);
    auto [entry, is_new] = known.try_emplace({module, site});
    if (is_new) entry->second = look_up(site);
    return entry->second;
}

}  // namespace emu
