// Process groups: libtorch's c10d, as a few extern "C" functions. Stores and Gloo are in libtorch's CPU library; NCCL's
// part is loaded when it is used (nccl.cpp).
//
// Rules as in shim.cpp. Handles are made by `new` here and freed by the function that ends in `_drop`.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "group.h"
#include "group_work.h"
#include "guard.h"

namespace {

using ddpm::guarded;
using StoreHandle = c10::intrusive_ptr<c10d::Store>;
using BackendHandle = c10::intrusive_ptr<c10d::Backend>;
using std::chrono::milliseconds;

// The class is laid out by headers that stand in for Gloo's; this is its size in libtorch 2.11.
static_assert(sizeof(c10d::ProcessGroupGloo) == 488, "another ProcessGroupGloo than that of libtorch 2.11");

thread_local std::vector<uint8_t> fetched;

void* pending(c10::intrusive_ptr<c10d::Work> work) { return new ddpm::Pending(std::move(work)); }

}  // namespace

extern "C" {

// Connects to the store at a host and port, or serves it there.
int ddpm_store_join(const char* host, int port, int serves, int64_t timeout_ms, void** out) {
  return guarded([&] {
    // c10d also prints what it throws, with a stack of C++.
    static const bool quiet = [] {
      const bool was_unset = setenv("TORCH_CPP_LOG_LEVEL", "ERROR", 0) == 0;
      c10::initLogging();
      return was_unset;
    }();
    static_cast<void>(quiet);
    c10d::TCPStoreOptions options;
    options.port = static_cast<std::uint16_t>(port);
    options.isServer = serves != 0;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    *out = new StoreHandle(c10::make_intrusive<c10d::TCPStore>(host, options));
  });
}

// The same store through a connection of its own, for another thread.
int ddpm_store_again(void* store, void** out) {
  return guarded([&] { *out = new StoreHandle((*static_cast<StoreHandle*>(store))->clone()); });
}

// The keys of a store that begin with `prefix`, through the same connection.
int ddpm_store_below(void* store, const char* prefix, void** out) {
  return guarded([&] {
    *out = new StoreHandle(c10::make_intrusive<c10d::PrefixStore>(prefix, *static_cast<StoreHandle*>(store)));
  });
}

void ddpm_store_drop(void* store) { delete static_cast<StoreHandle*>(store); }

int ddpm_store_set(void* store, const char* key, const uint8_t* value, size_t length) {
  return guarded(
      [&] { (*static_cast<StoreHandle*>(store))->set(key, std::vector<uint8_t>(value, value + length)); });
}

// The value of a key, if it is there; it stays where it is until the next call on this thread.
int ddpm_store_get(void* store, const char* key, int* there, const uint8_t** value, size_t* length) {
  return guarded([&] {
    auto& keys = **static_cast<StoreHandle*>(store);
    *there = keys.check({key});
    if (!*there) return;
    fetched = keys.get(key);
    *value = fetched.data();
    *length = fetched.size();
  });
}

// Adds to the number that a key stands for, 0 before; gives the sum.
int ddpm_store_add(void* store, const char* key, int64_t number, int64_t* sum) {
  return guarded([&] { *sum = (*static_cast<StoreHandle*>(store))->add(key, number); });
}

// A group of Gloo. `host` is a name or an address of this host that others reach, `interface` a network interface;
// with neither, what the host's name resolves to.
int ddpm_group_gloo(void* store, int rank, int size, const char* host, const char* interface, int64_t timeout_ms,
                    void** out) {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(timeout_ms));
    auto device = interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                  : host    ? c10d::ProcessGroupGloo::createDeviceForHostname(host)
                            : c10d::ProcessGroupGloo::createDefaultDevice();
    options->devices.push_back(std::move(device));
    *out = new BackendHandle(
        c10::make_intrusive<c10d::ProcessGroupGloo>(*static_cast<StoreHandle*>(store), rank, size, options));
  });
}

// A group that has no work under way.
void ddpm_group_drop(void* group) {
  auto* handle = static_cast<BackendHandle*>(group);
  // NCCL's warns where that was left out.
  guarded([&] { (*handle)->shutdown(); });
  delete handle;
}

// NCCL's watchdog would end the process by itself, and write dumps: it is to end the work, and leave the rest to whoever
// waits for it. What is set in the environment stays.
int ddpm_nccl_leaves_failures_to_us() {
  return guarded([] {
    setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2", 0);
    setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0", 0);
  });
}

// Ends what is under way, where the group can: NCCL's. Others end with the process.
int ddpm_group_abort(void* group) {
  return guarded([&] { (*static_cast<BackendHandle*>(group))->abort(); });
}

// Begins to add up a tensor over all ranks, in place; or, with `largest`, to take each value's maximum.
int ddpm_group_all_reduce(void* group, at::Tensor* tensor, int largest, void** out) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> tensors{tensor->detach()};
    c10d::AllreduceOptions options;
    options.reduceOp = largest ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
    *out = pending((*static_cast<BackendHandle*>(group))->allreduce(tensors, options));
  });
}

// Begins to copy the tensor of rank 0 into that of every rank.
int ddpm_group_broadcast(void* group, at::Tensor* tensor, void** out) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> tensors{tensor->detach()};
    *out = pending((*static_cast<BackendHandle*>(group))->broadcast(tensors, c10d::BroadcastOptions()));
  });
}

// Begins to collect the tensors of all ranks, [N], in rank order into `all`, [ranks * N].
int ddpm_group_all_gather(void* group, at::Tensor* all, at::Tensor* own, void** out) {
  return guarded([&] {
    const at::NoGradGuard no_grad;
    at::Tensor to = all->detach(), from = own->detach();
    *out = pending((*static_cast<BackendHandle*>(group))->_allgather_base(to, from, c10d::AllgatherOptions()));
  });
}

// Waits for work under way, at most for a time; `done` is 1 when it has ended.
int ddpm_pending_wait(void* pending, int64_t timeout_ms, int* done) {
  return guarded([&] { *done = static_cast<ddpm::Pending*>(pending)->wait(milliseconds(timeout_ms)); });
}

// From here on the process ends without the destructors of libraries, which may wait for threads that hang.
void ddpm_exit_without_cleanup() {
  static const int registered = on_exit([](int status, void*) { _exit(status); }, nullptr);
  static_cast<void>(registered);
}

void ddpm_pending_drop(void* pending) { delete static_cast<ddpm::Pending*>(pending); }

}  // extern "C"
