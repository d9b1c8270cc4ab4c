// Whether the simulated device sees what it is there to see. Prints "ok", or what failed.

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <string>

namespace {

using at::Tensor;

int failures = 0;

void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::printf("FAILED: %s\n", what);
}

bool throws(const std::function<void()>& body, const char* said) {
  try {
    body();
  } catch (const std::exception& e) {
    return std::string(e.what()).find(said) != std::string::npos;
  }
  return false;
}

bool crashes(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status);
}

uint64_t (*all_waits)();
uint64_t (*races)();

// Waits since the last call.
uint64_t waits() {
  static uint64_t before = 0;
  const uint64_t now = all_waits(), n = now - before;
  before = now;
  return n;
}

const auto floats = at::device(at::kCUDA).dtype(at::kFloat);

void waits_are_counted() {
  const Tensor a = at::ones({64, 3}, floats), b = at::arange(3, floats);
  const Tensor c = (a * b + 2).sum();
  check(waits() == 0, "arithmetic does not wait");
  check(c.item<float>() == 64 * 9 && waits() == 1, "item waits, once");
  const Tensor host = at::ones({4});
  const Tensor there = host.to(at::kCUDA);
  check(waits() == 1, "a copy from pageable memory waits");
  host.to(at::kCUDA, at::kFloat, /*non_blocking=*/true);
  check(waits() == 1, "it may wait whatever is asked");
  host.pin_memory().to(at::kCUDA, at::kFloat, /*non_blocking=*/true);
  check(waits() == 0, "one from pinned memory does not, if asked");
  at::empty({4}).copy_(there, /*non_blocking=*/true);
  check(waits() == 1, "one to pageable memory waits, whatever is asked");
  Tensor late = at::empty({4}).pin_memory();
  late.copy_(there, /*non_blocking=*/true);
  check(waits() == 0, "one to pinned memory does not, if asked");
  check(std::isnan(late[0].item<float>()), "it is not there before the host has waited");
  c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(0);
  check(late[0].item<float>() == 1 && waits() == 1, "it is there then");
  a.nonzero();
  check(waits() == 1, "nonzero waits");
  a.index({b.to(at::kLong)});
  check(waits() == 0, "indices on the device do not wait");
}

void devices_are_compared() {
  const Tensor a = at::ones({64, 3}, floats);
  check(throws([&] { a + at::ones({64, 3}); }, "same device"), "a tensor elsewhere is refused");
  check((a + at::ones({})).is_cuda() && waits() == 0, "a number elsewhere is not");
  check(throws([&] { at::index_select(a, 0, at::zeros({1}, at::kLong)); }, "same device"), "indices elsewhere are");
}

void memory_is_a_device_s() {
  const Tensor a = at::ones({64, 3}, floats);
  check(crashes([&] { *static_cast<volatile float*>(a.data_ptr()) = 1; }), "host code cannot follow a device pointer");
  const char* said = "CUDA out of memory. Tried to allocate 64.00 GiB";
  check(throws([] { at::empty({1l << 34}, floats); }, said), "memory ends");
  check(std::isnan(at::empty({9}, floats)[8].item<float>()), "memory that nobody wrote is NaN");
  const auto stats = at::getDeviceAllocator(at::kCUDA)->getDeviceStats(0).allocated_bytes[0];
  check(stats.current > 0 && stats.peak >= stats.current, "memory is counted");
}

// Autograd on the device's own thread, in place on views; out variants that grow; casts; draws.
void libtorch_s_own_parts_work() {
  const Tensor a = at::ones({64, 3}, floats), grads = at::zeros({16}, floats);
  Tensor w = at::ones({3}, floats).set_requires_grad(true);
  w.mutable_grad() = grads.narrow(0, 0, 3);
  (a * w).sum().backward();
  check(grads.cpu().sum().item<float>() == 192, "gradients go into a view");
  Tensor out = at::empty({0}, floats);
  at::add_out(out, a, a);
  check(out.sizes() == a.sizes() && out.is_cuda() && out.cpu()[5][2].item<float>() == 2, "an output grows");
  at::manual_seed(7);
  const Tensor one = at::randn({100}, floats).cpu();
  at::manual_seed(7);
  check(at::equal(one, at::randn({100}, floats).cpu()) && at::equal(one, at::randn({100})),
        "draws are those of a CPU generator of the device's own");
  at::autocast::set_autocast_enabled(at::kCUDA, true);
  at::autocast::set_autocast_dtype(at::kCUDA, at::kBFloat16);
  check(at::mm(a, a.t()).scalar_type() == at::kBFloat16, "autocast");
  at::autocast::set_autocast_enabled(at::kCUDA, false);
}

void races_are_seen() {
  const c10::impl::VirtualGuardImpl device(at::kCUDA);
  Tensor a = at::ones({64, 3}, floats), to = at::empty({64, 3}).pin_memory();
  auto copy_aside = [&](bool after_event, bool non_blocking) {
    c10::Event done(at::kCUDA);
    done.record(device.getStream(a.device()));
    c10::StreamGuard aside(device.getStreamFromGlobalPool(a.device(), false));
    if (after_event) done.block(aside.current_stream());
    to.copy_(a, non_blocking);
  };
  a.add_(1);
  check(races() == 0, "no race so far");
  copy_aside(false, false);
  check(races() == 1, "reading on another stream what the first has not done yet is a race");
  copy_aside(true, false);
  check(races() == 1, "not after an event");
  a.add_(1);
  device.synchronizeDevice(0);
  copy_aside(false, true);
  check(races() == 1, "not after waiting");
  a.add_(1);
  check(races() == 2, "writing what another stream may still read is a race");
  device.synchronizeDevice(0);
  copy_aside(true, true);
  a = Tensor();
  check(races() == 3, "freeing what another stream may still read is a race");
}

}  // namespace

int main() {
  void* simulator = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);
  if (!simulator) return std::printf("%s\n", dlerror()), 1;
  all_waits = reinterpret_cast<uint64_t (*)()>(dlsym(simulator, "simcuda_waits"));
  races = reinterpret_cast<uint64_t (*)()>(dlsym(simulator, "simcuda_races"));
  check(at::hasCUDA() && at::globalContext().hasCuDNN(), "there is CUDA");
  waits_are_counted();
  devices_are_compared();
  memory_is_a_device_s();
  libtorch_s_own_parts_work();
  races_are_seen();
  std::printf(failures ? "%d failed\n" : "ok\n", failures);
  return failures != 0;
}
