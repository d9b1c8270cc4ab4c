#include "memory.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "counts.h"
#include "order.h"

namespace simcuda {
namespace {

constexpr size_t block_bytes = 512, page_bytes = 4096;

// Blocks of at least this size go back to the system when they are freed.
constexpr size_t large_bytes = 1 << 20;

// Free ranges are never merged over a block in use, so there are more addresses than bytes.
constexpr size_t addresses_a_byte = 4;

size_t rounded_up(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

std::string readable(size_t bytes) {
  char text[64];
  if (bytes >= 1ull << 30) {
    std::snprintf(text, sizeof text, "%.2f GiB", bytes / 1073741824.0);
  } else if (bytes >= 1 << 20) {
    std::snprintf(text, sizeof text, "%.2f MiB", bytes / 1048576.0);
  } else {
    std::snprintf(text, sizeof text, "%.2f KiB", bytes / 1024.0);
  }
  return text;
}

}  // namespace

Memory::Memory()
    : limit_(number_from("SIMCUDA_MEMORY", 4ull << 30)),
      poison_(number_from("SIMCUDA_POISON", 1) != 0),
      span_(rounded_up(addresses_a_byte * limit_, 1 << 21)) {
  void* both = mmap(nullptr, 2 * span_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TORCH_CHECK(both != MAP_FAILED, "simcuda: no addresses");
  first_ = static_cast<char*>(both);
  TORCH_CHECK(mprotect(first_ + span_, span_, PROT_READ | PROT_WRITE) == 0, "simcuda: no memory");
  holes_[0] = span_;
}

Memory& Memory::get() {
  static Memory* memory = new Memory;
  return *memory;
}

void Memory::release(void* data) {
  if (data) get().give_back(data);
}

void Memory::note(int64_t bytes) {
  for (auto* stat : {&stats_.allocated_bytes, &stats_.active_bytes, &stats_.reserved_bytes}) {
    bytes > 0 ? (*stat)[0].increase(bytes) : (*stat)[0].decrease(-bytes);
  }
  bytes > 0 ? stats_.allocation[0].increase(1) : stats_.allocation[0].decrease(1);
}

c10::DataPtr Memory::allocate(size_t size) {
  if (size == 0) return {nullptr, nullptr, &release, the_device};
  TORCH_CHECK_WITH(OutOfMemoryError, size <= size_t(1) << 60,
                   "CUDA out of memory. Tried to allocate more than 1EB memory.");
  const size_t bytes = rounded_up(size, block_bytes);
  std::unique_lock<std::mutex> lock(mutex_);
  const size_t in_use = stats_.allocated_bytes[0].current;
  auto hole = holes_.begin();
  while (hole != holes_.end() && hole->second < bytes) ++hole;
  if (in_use + bytes > limit_ || hole == holes_.end()) {
    ++stats_.num_ooms;
    lock.unlock();
    // In libtorch's words, which programs look for.
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", readable(size),
                     ". GPU 0 has a total capacity of ", readable(limit_), " of which ", readable(limit_ - in_use),
                     " is free. Of the allocated memory ", readable(in_use), " is allocated by PyTorch.");
  }
  const size_t start = hole->first, left = hole->second - bytes;
  holes_.erase(hole);
  if (left) holes_[start + bytes] = left;
  used_[start] = bytes;
  note(static_cast<int64_t>(bytes));
  lock.unlock();
  void* data = first_ + start;
  if (poison_) std::memset(on_host(data), 0xff, bytes);
  Order::get().allocated(data, current_stream);
  return {data, data, &release, the_device};
}

void Memory::give_back(void* data) {
  Order::get().freed(data);
  std::lock_guard<std::mutex> lock(mutex_);
  const size_t start = static_cast<char*>(data) - first_;
  auto found = used_.find(start);
  TORCH_INTERNAL_ASSERT(found != used_.end());
  size_t size = found->second;
  used_.erase(found);
  note(-static_cast<int64_t>(size));
  if (size >= large_bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(on_host(data));
    const uintptr_t from = rounded_up(begin, page_bytes), to = (begin + size) / page_bytes * page_bytes;
    madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
  }
  auto next = holes_.lower_bound(start);
  if (next != holes_.end() && start + size == next->first) {
    size += next->second;
    next = holes_.erase(next);
  }
  if (next != holes_.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == start) {
      before->second += size;
      return;
    }
  }
  holes_[start] = size;
}

void Memory::copy_data(void* to, const void* from, size_t size) const { std::memcpy(on_host(to), on_host(from), size); }

c10::CachingDeviceAllocator::DeviceStats Memory::getDeviceStats(c10::DeviceIndex) {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

void Memory::resetPeakStats(c10::DeviceIndex) {
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.allocated_bytes[0].reset_peak();
}

std::pair<size_t, size_t> Memory::getMemoryInfo(c10::DeviceIndex index) {
  TORCH_CHECK(index == 0, "CUDA error: invalid device ordinal");
  std::lock_guard<std::mutex> lock(mutex_);
  return {limit_ - stats_.allocated_bytes[0].current, limit_};
}

Pinned& Pinned::get() {
  static Pinned* pinned = new Pinned;
  return *pinned;
}

void Pinned::release(void* data) {
  if (!data) return;
  std::lock_guard<std::mutex> lock(get().mutex_);
  get().blocks_.erase(static_cast<char*>(data));
  std::free(data);
}

bool Pinned::owns(const void* data) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto* at = const_cast<char*>(static_cast<const char*>(data));
  auto after = blocks_.upper_bound(at);
  return after != blocks_.begin() && at < std::prev(after)->first + std::prev(after)->second;
}

c10::DataPtr Pinned::allocate(size_t size) {
  if (size == 0) return {nullptr, nullptr, &release, at::kCPU};
  char* data = static_cast<char*>(std::aligned_alloc(block_bytes, rounded_up(size, block_bytes)));
  TORCH_CHECK_WITH(OutOfMemoryError, data, "simcuda: no pinned memory");
  std::lock_guard<std::mutex> lock(mutex_);
  blocks_[data] = size;
  return {data, data, &release, at::kCPU};
}

void Pinned::copy_data(void* to, const void* from, size_t size) const { std::memcpy(to, from, size); }

}  // namespace simcuda
