// Memory of the device, and pinned memory of the host.

#pragma once

#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <map>
#include <mutex>
#include <unordered_map>

namespace simcuda {

inline const c10::Device the_device(c10::DeviceType::CUDA, 0);

// Device memory is memory of this process under two addresses. The one that tensors have is in a range without access,
// so host code that follows it crashes; `span_` further on, the same byte is readable for the kernels.
//
// Blocks are multiples of 512 bytes, as libtorch's allocator gives them. Fresh memory is filled with set bits, which
// are NaN in any float type.
class Memory final : public c10::DeviceAllocator {
 public:
  static Memory& get();

  bool owns(const void* data) const { return data >= first_ && data < first_ + span_; }
  // Where the CPU's kernels find this byte.
  void* on_host(const void* data) const {
    return data ? const_cast<char*>(static_cast<const char*>(data)) + span_ : nullptr;
  }
  int64_t peak_bytes() { return getDeviceStats(0).allocated_bytes[0].peak; }

  c10::DataPtr allocate(size_t size) override;
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override;
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override;
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override;
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex index) override;

 private:
  Memory();
  static void release(void* data);
  void give_back(void* data);
  void note(int64_t bytes);

  const uint64_t limit_;
  const bool poison_;
  const size_t span_;
  char* first_ = nullptr;
  std::mutex mutex_;
  std::map<size_t, size_t> holes_;           // free ranges: offset and size
  std::unordered_map<size_t, size_t> used_;  // blocks: offset and size
  c10::CachingDeviceAllocator::DeviceStats stats_;
};

// Host memory that a device copies from and to while the host goes on. Here it is known by its addresses.
class Pinned final : public at::HostAllocator {
 public:
  static Pinned& get();

  bool owns(const void* data);

  c10::DataPtr allocate(size_t size) override;
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override;
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}

 private:
  static void release(void* data);

  std::mutex mutex_;
  std::map<char*, size_t> blocks_;
};

}  // namespace simcuda
