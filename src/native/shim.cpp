// The parts of libtorch that tch lacks, as a few extern "C" functions.
//
// Rules of this file: tensors come in as at::Tensor* (tch's own pointers) and stay owned by the caller; no exception
// leaves a function (guard.h). Per-op headers only: <torch/torch.h> costs 15 s per build.

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/add.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/unbind.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <malloc.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "guard.h"
#include "weights.h"

// jemalloc's control; null in a program that is not linked to it.
extern "C" __attribute__((weak)) int mallctl(const char* name, void* old_value, size_t* old_length, void* new_value,
                                             size_t new_length);

namespace {

using ddpm::guarded;

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
    ddpm::forget_given_weights();
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

}  // extern "C"
