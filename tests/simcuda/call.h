// One operator call: CPU tensors over device memory for the CPU's kernel, and its results as tensors of the device.

#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include "counts.h"
#include "order.h"

namespace simcuda {

class Call {
 public:
  // `name` must live as long as the call.
  explicit Call(const char* name) : name_(name) {}

  // Notes memory that the operator reads or writes.
  void touch(const at::Tensor& t, bool writes);

  // The same values as a CPU tensor; the same one for the same tensor. CPU tensors stay as they are.
  at::Tensor alias(const at::Tensor& t);

  // A result of the CPU's kernel as a tensor of the device: the argument that it is, a view of one, or a fresh one.
  at::Tensor back(const at::Tensor& result);

  // Arguments that the kernel has given another shape or other memory get it on the device too.
  void settle();

  // The operator is on the stream.
  void done() const {
    count_bytes(bytes_);
    Order::get().work(current_stream, touched_, name_);
  }

 private:
  struct Named {
    at::Tensor original, alias;
    void* data;  // of the alias, before the call
  };

  c10::Storage alias(const c10::Storage& storage);

  const char* name_;
  std::vector<Named> tensors_;
  std::vector<std::pair<c10::Storage, c10::Storage>> storages_;  // on the device, on the CPU
  Order::Touched touched_;
  uint64_t bytes_ = 0;
};

// While it lives, calls go past autograd, views and autocast to the kernels.
struct Below {
  at::AutoDispatchBelowADInplaceOrView views;
  c10::impl::ExcludeDispatchKeyGuard autocast{c10::autocast_dispatch_keyset};
};

}  // namespace simcuda
