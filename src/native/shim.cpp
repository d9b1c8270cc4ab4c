// The parts of libtorch that tch lacks, as a few extern "C" functions.
//
// Rules of this file: tensors come in as at::Tensor* (tch's own pointers) and stay owned by the caller; no exception
// leaves a function (guard.h). Per-op headers only: <torch/torch.h> costs 15 s per build.

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/unbind.h>
#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <dlfcn.h>
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guard.h"

// jemalloc's control; null in a program that is not linked to it.
extern "C" __attribute__((weak)) int mallctl(const char* name, void* old_value, size_t* old_length, void* new_value,
                                             size_t new_length);

namespace {

using ddpm::guarded;

constexpr char no_driver[] = "no NVIDIA driver: libcuda.so.1 cannot be loaded";

std::vector<at::Tensor> gather(at::Tensor** tensors, int64_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (int64_t i = 0; i < count; ++i) list.push_back(*tensors[i]);
  return list;
}

// Counts the bytes that CPU tensors allocate and free; libtorch's profiler hooks into the same place.
struct CpuTally : c10::MemoryReportingInfoBase {
  int64_t now = 0;
  int64_t peak = 0;
  bool memoryProfilingEnabled() const override { return true; }
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device device) override {
    if (!device.is_cpu()) return;
    now += size;
    peak = std::max(peak, now);
  }
};

thread_local std::shared_ptr<CpuTally> tally;

}  // namespace

extern "C" {

const char* ddpm_last_error() { return ddpm::last_error.c_str(); }

// Makes `grad` (a view of the flat gradient) the tensor that backward accumulates into.
int ddpm_set_grad(at::Tensor* leaf, at::Tensor* grad) {
  return guarded([&] { leaf->mutable_grad() = *grad; });
}

// One step of libtorch's fused Adam or AdamW on one flat tensor, in place. `step` is an f32 scalar tensor
// that already holds the number of this step (1 for the first). If `frozen`, another such tensor, is 1,
// nothing changes.
int ddpm_fused_adam(at::Tensor* param, at::Tensor* grad, at::Tensor* exp_avg, at::Tensor* exp_avg_sq,
                    at::Tensor* step, at::Tensor* frozen, double lr, double beta1, double beta2,
                    double weight_decay, double eps, int decoupled_weight_decay) {
  return guarded([&] {
    if (decoupled_weight_decay) {
      at::_fused_adamw_({*param}, {*grad}, {*exp_avg}, {*exp_avg_sq}, {}, {*step}, lr, beta1, beta2,
                        weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false,
                        /*grad_scale=*/std::nullopt, /*found_inf=*/*frozen);
    } else {
      at::_fused_adam_({*param}, {*grad}, {*exp_avg}, {*exp_avg_sq}, {}, {*step}, lr, beta1, beta2,
                       weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false,
                       /*grad_scale=*/std::nullopt, /*found_inf=*/*frozen);
    }
  });
}

// norms[i] = L2 norm of tensors[i]; `out` is a 1-d tensor with one element per tensor.
int ddpm_foreach_norm(at::Tensor** tensors, int64_t count, at::Tensor* out) {
  return guarded([&] {
    auto norms = at::_foreach_norm(gather(tensors, count), 2);
    at::stack_out(*out, norms, 0);
  });
}

// tensors[i] *= factors[i], in place; `factors` is a 1-d tensor on the same device.
int ddpm_foreach_mul(at::Tensor** tensors, int64_t count, at::Tensor* factors) {
  return guarded([&] {
    auto list = gather(tensors, count);
    at::_foreach_mul_(list, factors->unbind(0));
  });
}

// target += alpha * other, in place: one pass, no temporary.
int ddpm_add_scaled(at::Tensor* target, at::Tensor* other, double alpha) {
  return guarded([&] { target->add_(*other, alpha); });
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

// TF32 for matrix products and convolutions on CUDA; no effect elsewhere.
int ddpm_set_tf32(int allow) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(allow != 0);
    at::globalContext().setAllowTF32CuDNN(allow != 0);
  });
}

// Begins bf16 autocast by libtorch's rules for this thread's convolutions and matrix products on CPU or CUDA;
// `ddpm_autocast_end` with the same device ends it. Not nested.
int ddpm_autocast_begin(int cuda) {
  return guarded([&] {
    const auto device = cuda ? at::kCUDA : at::kCPU;
    at::autocast::set_autocast_dtype(device, at::kBFloat16);
    at::autocast::set_autocast_cache_enabled(true);
    at::autocast::increment_nesting();
    at::autocast::set_autocast_enabled(device, true);
  });
}

void ddpm_autocast_end(int cuda) {
  guarded([&] {
    at::autocast::set_autocast_enabled(cuda ? at::kCUDA : at::kCPU, false);
    // Drop cached bf16 copies: the weights may change.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  });
}

// Gives freed memory back to the system, once: jemalloc's, which the program is linked to, or else glibc's.
void ddpm_return_freed_memory() {
  if (mallctl) {
    mallctl("arena.4096.purge", nullptr, nullptr, nullptr, 0);  // 4096: all arenas
  } else {
    malloc_trim(0);
  }
}

// Free and total bytes of a CUDA device.
int ddpm_cuda_memory(int device, uint64_t* free_bytes, uint64_t* total_bytes) {
  return guarded([&] {
    auto info = at::getDeviceAllocator(at::kCUDA)->getMemoryInfo(static_cast<c10::DeviceIndex>(device));
    *free_bytes = info.first;
    *total_bytes = info.second;
  });
}

// Peak bytes of tensors on a CUDA device.
int ddpm_cuda_peak_bytes(int device, uint64_t* bytes) {
  return guarded([&] {
    auto stats = at::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    *bytes = stats.allocated_bytes[0].peak;
  });
}

// Starts counting the bytes of CPU tensors that this thread allocates and frees, including backward passes.
int ddpm_tally_begin() {
  return guarded([&] {
    TORCH_CHECK(!tally, "this thread counts already");
    auto fresh = std::make_shared<CpuTally>();
    c10::ThreadLocalDebugInfo::_push(c10::DebugInfoKind::PROFILER_STATE, fresh);
    tally = fresh;
  });
}

// Bytes held beyond those at the start: now, and at the peak so far.
void ddpm_tally_read(int64_t* now, int64_t* peak) {
  *now = tally ? tally->now : 0;
  *peak = tally ? tally->peak : 0;
}

void ddpm_tally_end() {
  guarded([&] {
    if (tally) c10::ThreadLocalDebugInfo::_pop(c10::DebugInfoKind::PROFILER_STATE);
  });
  tally.reset();
}

// Loads libtorch's CUDA library, which is beside the CPU library that this program is linked to.
//
// Must run before libtorch first checks for CUDA: it caches the answer.
int ddpm_load_cuda() {
  // Every start on a machine without a GPU gets here: no exception, as libtorch's take milliseconds.
  if (!dlopen("libcuda.so.1", RTLD_NOW)) {
    ddpm::last_error = no_driver;
    return 1;
  }
  return guarded([] {
    Dl_info here;
    TORCH_CHECK(dladdr(reinterpret_cast<void*>(&at::globalContext), &here), "libtorch_cpu.so is nowhere");
    std::string path(here.dli_fname);
    path = path.substr(0, path.rfind('/') + 1) + "libtorch_cuda.so";
    TORCH_CHECK(access(path.c_str(), F_OK) == 0, "this libtorch is built without CUDA");
    // Global, as if linked: its libraries use each other's symbols.
    TORCH_CHECK(dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL), "libtorch's CUDA half cannot be loaded: ", dlerror());
  });
}

// Queries the NVIDIA driver itself, through dlopen, to learn why a driver is missing or fails. `name` receives the
// device's name, NUL-terminated; `major` the first part of its compute capability.
int ddpm_cuda_device(int device, char* name, int capacity, int* major) {
  return guarded([&] {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW);
    TORCH_CHECK(driver, no_driver);
    auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
    auto get_device = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
    auto get_name = reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
    auto get_attribute = reinterpret_cast<int (*)(int*, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
    TORCH_CHECK(init && get_device && get_name && get_attribute, "libcuda.so.1 is not an NVIDIA driver");
    int status = init(0);
    TORCH_CHECK(status == 0, "the NVIDIA driver does not start: cuInit returned ", status);
    int handle = 0;
    status = get_device(&handle, device);
    TORCH_CHECK(status == 0, "no CUDA device ", device, ": cuDeviceGet returned ", status);
    status = get_name(name, capacity, handle);
    TORCH_CHECK(status == 0, "cuDeviceGetName returned ", status);
    constexpr int compute_capability_major = 75;
    status = get_attribute(major, compute_capability_major, handle);
    TORCH_CHECK(status == 0, "cuDeviceGetAttribute returned ", status);
  });
}

}  // extern "C"
