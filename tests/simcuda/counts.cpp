#include "counts.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

namespace simcuda {
namespace {

const char* const names[kinds] = {
    "item",    "d2h",       "h2d",       "data_dependent", "host_index", "stream", "event", "device",
    "kernels", "h2d_async", "d2h_async", "reseeds", "casts", "bytes"};

std::atomic<uint64_t> counts[kinds];

// Never freed: threads count until the process is gone.
struct ByName {
  std::mutex mutex;
  std::map<std::string, uint64_t> counts;
  static ByName& get() {
    static ByName* all = new ByName;
    return *all;
  }
};

// A line on stderr with the return addresses in the program (for addr2line) that led to a wait.
void trace(What what, const char* which) {
  void* frames[64];
  const int n = backtrace(frames, 64);
  std::string line = std::string("simcuda: ") + names[what] + " " + which + " at";
  for (int i = 0; i < n; ++i) {
    Dl_info info;
    link_map* map = nullptr;
    if (!dladdr1(frames[i], &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) || !map) continue;
    if (map->l_name && map->l_name[0]) continue;  // only the program itself has no name
    char text[32];
    std::snprintf(text, sizeof text, " %#lx", reinterpret_cast<uintptr_t>(frames[i]) - map->l_addr - 1);
    line += text;
  }
  std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace

uint64_t number_from(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 0) : otherwise;
}

void count(What what, const char* which) {
  static const bool tracing = number_from("SIMCUDA_TRACE", 0) != 0;
  counts[what].fetch_add(1, std::memory_order_relaxed);
  if (what < kinds_of_waits && tracing) trace(what, which);
  if (what != kernels) {
    ByName& all = ByName::get();
    std::lock_guard<std::mutex> lock(all.mutex);
    ++all.counts[std::string(names[what]) + " " + which];
  }
}

void count_bytes(uint64_t moved) { counts[bytes].fetch_add(moved, std::memory_order_relaxed); }

uint64_t counted(What what) { return counts[what]; }

uint64_t waits() {
  uint64_t sum = 0;
  for (int i = 0; i < kinds_of_waits; ++i) sum += counts[i];
  return sum;
}

void write_counts(std::FILE* out) {
  for (int i = 0; i < kinds; ++i) std::fprintf(out, "\"%s\": %lu, ", names[i], counts[i].load());
  ByName& all = ByName::get();
  std::lock_guard<std::mutex> lock(all.mutex);
  const char* comma = "";
  std::fprintf(out, "\"by_name\": {");
  for (auto& [name, n] : all.counts) {
    std::fprintf(out, "%s\"%s\": %lu", comma, name.c_str(), n);
    comma = ", ";
  }
  std::fprintf(out, "}");
}

}  // namespace simcuda
