// The NCCL part: makes c10d's backend for NCCL, whose headers and symbols are CUDA's.
//
// It is no part of the program's own objects, so that the program starts without CUDA: build.rs makes a shared object
// of this file alone, the program carries it as bytes, and nccl.rs loads it behind libtorch's CUDA half, from which it
// takes all of its symbols. It exports one function.

#define USE_C10D_NCCL

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "guard.h"

namespace {

using c10d::ProcessGroupNCCL;
using Options = ProcessGroupNCCL::Options;

// This file allocates both objects, and libtorch's own code fills and reads them. The headers leave members out by
// NCCL's version and other macros, so other headers than libtorch was built with would be memory overwritten without a
// word. The numbers are those of the wheel of torch 2.11.0 for CUDA 13.0 on x86-64: what its libtorch_python.so
// allocates for them, and where it puts the two options that are set here.
#ifdef __x86_64__
static_assert(sizeof(ProcessGroupNCCL) == 0x458, "not the layout that libtorch 2.11.0 is built with");
static_assert(sizeof(Options) == 0xf8, "not the layout that libtorch 2.11.0 is built with");
static_assert(offsetof(Options, timeout) == 0x10, "not the layout that libtorch 2.11.0 is built with");
static_assert(offsetof(Options, is_high_priority_stream) == 0x90, "not the layout that libtorch 2.11.0 is built with");
#endif

c10::intrusive_ptr<c10d::Backend> connected(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, int device, std::chrono::milliseconds timeout) {
  const int devices = c10::cuda::device_count();
  TORCH_CHECK(device >= 0 && device < devices, "no CUDA device ", device, " for NCCL: libtorch sees ", devices);
  auto options = Options::create(/*is_high_priority_stream=*/true);
  options->timeout = timeout;
  auto backend = c10::make_intrusive<ProcessGroupNCCL>(store, rank, size, std::move(options));
  const at::Device bound(at::kCUDA, static_cast<c10::DeviceIndex>(device));
  backend->setBoundDeviceId(bound);
  // Ranks that cannot reach each other are told now, and not by the first gradient.
  try {
    backend->eagerConnectSingleDevice(bound);
  } catch (...) {
    // Else its end warns about a Python function that nobody has called.
    backend->abort();
    throw;
  }
  return backend;
}

}  // namespace

// Makes the backend of a group: `*out` becomes a new intrusive_ptr<c10d::Backend>, for the caller to delete. `store`
// points to an intrusive_ptr<c10d::Store>, which stays the caller's. Waits for all ranks: for rank 0 as long as the
// store does, then for the others without end. `timeout_ms` is that of the collectives.
//
// Returns 0, or 1 with the message in `error`, NUL-terminated within `capacity` bytes.
extern "C" __attribute__((visibility("default"))) int ddpm_nccl_backend(
    void* store, int rank, int size, int device, int64_t timeout_ms, void** out, char* error, size_t capacity) {
  const int status = ddpm::guarded([&] {
    const auto& shared = *static_cast<c10::intrusive_ptr<c10d::Store>*>(store);
    auto backend = connected(shared, rank, size, device, std::chrono::milliseconds(timeout_ms));
    *out = new c10::intrusive_ptr<c10d::Backend>(std::move(backend));
  });
  if (status != 0) snprintf(error, capacity, "%s", ddpm::last_error.c_str());
  return status;
}
