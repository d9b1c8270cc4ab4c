// CUDA: loading libtorch's half for it, what the driver says, memory of a device, copies beside its work, and how exact
// it computes. Nothing here is linked to CUDA: libtorch's calls go through its own hooks, and the driver's through
// dlsym.
//
// Rules as in shim.cpp.

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "guard.h"

namespace {

using ddpm::guarded;

// The folder of libtorch: that of the CPU library, which this program is linked to.
std::string libtorch_folder() {
  Dl_info here;
  TORCH_CHECK(dladdr(reinterpret_cast<void*>(&at::globalContext), &here), "libtorch_cpu.so is nowhere");
  std::string path(here.dli_fname);
  return path.substr(0, path.rfind('/'));
}

// NVIDIA's driver, loaded by the first call.
struct Driver {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);

  template <typename F>
  F* function(const char* name) const {
    return reinterpret_cast<F*>(dlsym(library, name));
  }

  // What the driver says about one of its status codes.
  std::string said(int status) const {
    const char* text = nullptr;
    auto describe = function<int(int, const char**)>("cuGetErrorString");
    if (!describe || describe(status, &text) != 0 || !text) return std::to_string(status);
    return std::to_string(status) + " (" + text + ")";
  }
};

const Driver& driver() {
  static const Driver loaded;
  return loaded;
}

constexpr char not_a_driver[] = "libcuda.so.1 is not an NVIDIA driver";

}  // namespace

extern "C" {

// The folder of the libtorch that is loaded, for the rest of the process.
const char* ddpm_libtorch_folder() {
  static std::string folder;
  return guarded([] { folder = libtorch_folder(); }) == 0 ? folder.c_str() : "";
}

// The newest CUDA that NVIDIA's driver supports, as 13000 for 13.0. This loads the driver, and nothing of libtorch.
int ddpm_cuda_driver(int* version) {
  // Every start on a machine without a GPU gets here: no exception, as libtorch's take milliseconds.
  if (!driver().library) {
    ddpm::last_error = "no NVIDIA driver: libcuda.so.1 cannot be loaded";
    return 1;
  }
  return guarded([&] {
    auto get_version = driver().function<int(int*)>("cuDriverGetVersion");
    TORCH_CHECK(get_version, not_a_driver);
    int status = get_version(version);
    TORCH_CHECK(status == 0, "cuDriverGetVersion returned ", driver().said(status));
  });
}

// A device as the driver describes it; only after ddpm_cuda_driver has succeeded. `name` receives the device's name,
// NUL-terminated; `major` and `minor` its compute capability.
int ddpm_cuda_device(int device, char* name, int capacity, int* major, int* minor) {
  return guarded([&] {
    auto init = driver().function<int(unsigned)>("cuInit");
    auto get_device = driver().function<int(int*, int)>("cuDeviceGet");
    auto get_name = driver().function<int(char*, int, int)>("cuDeviceGetName");
    auto get_attribute = driver().function<int(int*, int, int)>("cuDeviceGetAttribute");
    TORCH_CHECK(init && get_device && get_name && get_attribute, not_a_driver);
    int status = init(0);
    TORCH_CHECK(status == 0, "the NVIDIA driver does not start: cuInit returned ", driver().said(status));
    int handle = 0;
    status = get_device(&handle, device);
    TORCH_CHECK(status == 0, "no CUDA device ", device, ": cuDeviceGet returned ", driver().said(status));
    status = get_name(name, capacity, handle);
    TORCH_CHECK(status == 0, "cuDeviceGetName returned ", driver().said(status));
    constexpr int capability_major = 75, capability_minor = 76;
    status = get_attribute(major, capability_major, handle);
    if (status == 0) status = get_attribute(minor, capability_minor, handle);
    TORCH_CHECK(status == 0, "cuDeviceGetAttribute returned ", driver().said(status));
  });
}

// Loads libtorch's CUDA library, which is beside the CPU library.
//
// Must run before libtorch first checks for CUDA: it keeps the answer.
int ddpm_load_cuda() {
  return guarded([] {
    const std::string folder = libtorch_folder();
    const std::string path = folder + "/libtorch_cuda.so";
    TORCH_CHECK(access(path.c_str(), F_OK) == 0, "this libtorch is built without CUDA");
    // Global, as if linked: its libraries use each other's symbols.
    TORCH_CHECK(dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL), "libtorch's CUDA half cannot be loaded: ", dlerror());
    // NVRTC, which libtorch and cuDNN compile kernels with, looks for its builtins in the folders that the library
    // which loaded it names. This one names NVIDIA's folder; cuDNN opens NVRTC by its bare name, and it would find
    // none. So it must come before cuDNN compiles. A libtorch without it works, but for such kernels.
    dlopen((folder + "/libcaffe2_nvrtc.so").c_str(), RTLD_NOW | RTLD_GLOBAL);
  });
}

// Free and total bytes of a CUDA device; what libtorch's allocator keeps for reuse is not free.
int ddpm_cuda_memory(int device, uint64_t* free_bytes, uint64_t* total_bytes) {
  return guarded([&] {
    auto info = at::getDeviceAllocator(at::kCUDA)->getMemoryInfo(static_cast<c10::DeviceIndex>(device));
    *free_bytes = info.first;
    *total_bytes = info.second;
  });
}

// Returns what libtorch's allocator keeps for reuse to the devices.
int ddpm_cuda_empty_cache() {
  return guarded([] {
    auto* allocator = at::getDeviceAllocator(at::kCUDA);
    if (allocator->initialized()) allocator->emptyCache();
  });
}

// Bytes of tensors on a CUDA device: now, and the most since the start or the last ddpm_cuda_forget_peak.
int ddpm_cuda_tensors(int device, uint64_t* now_bytes, uint64_t* peak_bytes) {
  return guarded([&] {
    auto stats = at::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    *now_bytes = stats.allocated_bytes[0].current;
    *peak_bytes = stats.allocated_bytes[0].peak;
  });
}

int ddpm_cuda_forget_peak(int device) {
  return guarded(
      [&] { at::getDeviceAllocator(at::kCUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(device)); });
}

// to[i] = from[i], done on return. From a CUDA device on a separate stream, concurrent with other work.
int ddpm_copy_aside(at::Tensor** to, at::Tensor** from, int64_t count) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::optional<c10::StreamGuard> aside;
    if (count > 0 && from[0]->is_cuda()) {
      c10::impl::VirtualGuardImpl device(c10::DeviceType::CUDA);
      aside.emplace(device.getStreamFromGlobalPool(from[0]->device(), /*isHighPriority=*/false));
    }
    for (int64_t i = 0; i < count; ++i) to[i]->copy_(*from[i]);
    if (aside) aside->current_stream().synchronize();
  });
}

// An uninitialised tensor of the shape and kind of `like` in pinned host memory. tch's pin_memory names a device, about
// which libtorch 2.11 warns each time.
int ddpm_pinned_like(at::Tensor* like, at::Tensor** out) {
  return guarded([&] {
    *out = new at::Tensor(at::empty(like->sizes(), like->options().device(at::kCPU).pinned_memory(true)));
  });
}

// Queues a copy of a CUDA tensor to pinned host memory; it is there when `ddpm_wait` returns. `ddpm_forget` frees what
// is waited for.
int ddpm_send(at::Tensor* from, at::Tensor** host, void** sent) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor to = at::empty(from->sizes(), from->options().device(at::kCPU).pinned_memory(true));
    to.copy_(*from, /*non_blocking=*/true);
    c10::impl::VirtualGuardImpl device(c10::DeviceType::CUDA);
    auto event = std::make_unique<c10::Event>(c10::DeviceType::CUDA);
    event->record(device.getStream(from->device()));
    *host = new at::Tensor(std::move(to));
    *sent = event.release();
  });
}

int ddpm_wait(void* sent) {
  return guarded([&] { static_cast<c10::Event*>(sent)->synchronize(); });
}

void ddpm_forget(void* sent) { delete static_cast<c10::Event*>(sent); }

// TF32 for matrix products and convolutions on CUDA; no effect elsewhere.
int ddpm_set_tf32(int allow) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(allow != 0);
    at::globalContext().setAllowTF32CuDNN(allow != 0);
  });
}

// Deterministic algorithms only; libtorch throws where it has none.
int ddpm_set_deterministic(int on) {
  return guarded([&] {
    // cuBLAS reads this when it starts, and libtorch requires it.
    if (on) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    at::globalContext().setDeterministicAlgorithms(on != 0, /*warn_only=*/false);
    // Uninitialised memory is never read here.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    at::globalContext().setDeterministicCuDNN(on != 0);
    if (on) at::globalContext().setBenchmarkCuDNN(false);
  });
}

// Whether cuDNN times its algorithms at the first convolution of each shape; 1 if it did before. It never does where
// only deterministic algorithms are allowed.
int ddpm_cudnn_search(int on) {
  auto& context = at::globalContext();
  const bool before = context.benchmarkCuDNN();
  context.setBenchmarkCuDNN(on != 0 && !context.deterministicCuDNN());
  return before;
}

}  // extern "C"
