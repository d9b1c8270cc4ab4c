// The device as libtorch asks for it: streams and events (the guard), properties (the hooks), allocators. And as the
// program asks the driver.

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstdio>
#include <cstdlib>

#include "counts.h"
#include "generator.h"
#include "memory.h"
#include "order.h"

namespace simcuda {
namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;
using c10::StreamId;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static void check(Device device) {
    TORCH_CHECK(device.index() <= 0, "CUDA error: invalid device ordinal");
  }
  static Stream stream_of(StreamId id) { return Stream(Stream::UNSAFE, the_device, id); }
  static Order::Clock& clock(void* event) { return *static_cast<Order::Clock*>(event); }

  DeviceType type() const override { return DeviceType::CUDA; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Device exchangeDevice(Device device) const override { return check(device), the_device; }
  Device getDevice() const override { return the_device; }
  void setDevice(Device device) const override { check(device); }
  void uncheckedSetDevice(Device) const noexcept override {}

  Stream getStream(Device) const override { return stream_of(current_stream); }
  Stream getDefaultStream(Device) const override { return stream_of(0); }
  Stream getStreamFromGlobalPool(Device, bool) const override { return stream_of(new_stream()); }
  Stream getNewStream(Device, int) const override { return stream_of(new_stream()); }
  Stream exchangeStream(Stream stream) const override { return stream_of(std::exchange(current_stream, stream.id())); }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream& which) const override {
    count(stream, "synchronize");
    Order::get().host_waits(Order::get().snapshot(which.id()));
  }
  void synchronizeDevice(const DeviceIndex) const override {
    count(device, "synchronize");
    Order::get().host_waits_for_all();
  }

  void record(void** event, const Stream& stream, const DeviceIndex, const c10::EventFlag) const override {
    if (!*event) *event = new Order::Clock;
    clock(*event) = Order::get().snapshot(stream.id());
  }
  void block(void* event, const Stream& stream) const override {
    if (event) Order::get().stream_waits(stream.id(), clock(event));
  }
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void* which) const override {
    count(event, "synchronize");
    if (which) Order::get().host_waits(clock(which));
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override {
    delete static_cast<Order::Clock*>(event);
  }
  double elapsedTime(void*, void*, const DeviceIndex) const override { return 0; }
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// Counts go to the file SIMCUDA_REPORT when the process ends, as JSON.
void report() {
  const char* path = std::getenv("SIMCUDA_REPORT");
  std::FILE* out = path && *path ? std::fopen(path, "w") : nullptr;
  if (!out) return;
  const Order& order = Order::get();
  std::fprintf(out, "{\"waits\": %lu, \"idle\": %lu, \"races\": %lu, \"peak_bytes\": %ld, ", waits(), order.idle(),
               order.races(), Memory::get().peak_bytes());
  write_counts(out);
  std::fprintf(out, "}\n");
  std::fclose(out);
}

const bool ready = [] {
  c10::SetAllocator(DeviceType::CUDA, &Memory::get());
  at::setHostAllocator(DeviceType::CUDA, &Pinned::get());
  std::atexit(&report);
  return true;
}();

}  // namespace
}  // namespace simcuda

namespace at {
namespace {

struct Hooks final : CUDAHooksInterface {
  explicit Hooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasCuDNN() const override { return true; }
  bool compiledWithCuDNN() const override { return true; }
  long versionCuDNN() const override { return 91900; }
  long versionRuntimeCuDNN() const override { return 91900; }
  long versionCUDART() const override { return 13000; }
  std::string showConfig() const override { return "simulated CUDA"; }

  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void deviceSynchronize(DeviceIndex) const override {
    simcuda::count(simcuda::device, "synchronize");
    simcuda::Order::get().host_waits_for_all();
  }

  const Generator& getDefaultGenerator(DeviceIndex) const override { return simcuda::default_generator(); }
  Generator getNewGenerator(DeviceIndex) const override { return simcuda::new_generator(); }
  Allocator* getPinnedMemoryAllocator() const override { return &simcuda::Pinned::get(); }
  Allocator* getCUDADeviceAllocator() const override { return &simcuda::Memory::get(); }
  bool isPinnedPtr(const void* data) const override { return simcuda::Pinned::get().owns(data); }
  Device getDeviceFromPtr(void* data) const override {
    TORCH_CHECK(simcuda::Memory::get().owns(data),
                "The specified pointer resides on host memory and is not registered with any CUDA device.");
    return simcuda::the_device;
  }
};

C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", Hooks)

}  // namespace
}  // namespace at

extern "C" {

// For tests in the same process.
uint64_t simcuda_waits() { return simcuda::waits(); }
uint64_t simcuda_races() { return simcuda::Order::get().races(); }

// What the program asks of the driver, as libcuda.so.1 has it. 0 is success, 101 an unknown device.
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) {
  return *version = static_cast<int>(simcuda::number_from("SIMCUDA_DRIVER", 13000)), 0;
}
int cuDeviceGet(int* handle, int index) { return *handle = index, index == 0 ? 0 : 101; }
int cuDeviceGetCount(int* number) { return *number = 1, 0; }
int cuDeviceGetName(char* name, int capacity, int) {
  return std::snprintf(name, static_cast<size_t>(capacity), "Simulated CUDA device"), 0;
}
// The compute capability, major and minor; 1 is an invalid value.
int cuDeviceGetAttribute(int* value, int attribute, int) {
  constexpr int major = 75, minor = 76;
  if (attribute == major) return *value = static_cast<int>(simcuda::number_from("SIMCUDA_MAJOR", 8)), 0;
  if (attribute == minor) return *value = static_cast<int>(simcuda::number_from("SIMCUDA_MINOR", 6)), 0;
  return 1;
}

}  // extern "C"
