// The gradients of a network in buckets: slices of one flat tensor, each summed over a group as soon as backward has
// filled it, while backward goes on with the next.
//
// Rules as in shim.cpp.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "group.h"
#include "group_work.h"
#include "guard.h"

namespace {

using at::Tensor;
using ddpm::guarded;

struct Bucket {
  // The part of the flat gradient, and what travels: the part itself, or a copy of it in bf16.
  Tensor part, sent;
  int64_t weights = 0;
  int64_t missing = 0;
  std::unique_ptr<ddpm::Pending> pending;
};

class Buckets {
 public:
  Buckets(c10::intrusive_ptr<c10d::Backend> group, const Tensor& grads, bool in_bf16)
      : group_(std::move(group)), grads_(grads.detach()), in_bf16_(in_bf16) {}

  void add(int64_t start, int64_t length) {
    buckets_.emplace_back();
    buckets_.back().part = grads_.narrow(0, start, length);
  }

  void watch(const Tensor& weight, int64_t bucket) {
    bucket_of_[weight.unsafeGetTensorImpl()] = static_cast<size_t>(bucket);
    buckets_[static_cast<size_t>(bucket)].weights += 1;
  }

  // From here on, until `launch_rest`, a bucket is sent when all of its gradients have arrived.
  void arm() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Bucket& bucket : buckets_) {
      bucket.missing = bucket.weights;
      bucket.pending.reset();
    }
    arrived_.clear();
    next_ = 0;
  }

  void arrive(const c10::TensorImpl* weight) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = bucket_of_.find(weight);
    if (found == bucket_of_.end()) return;
    TORCH_CHECK(arrived_.insert(weight).second, "a gradient arrived twice in one backward pass");
    buckets_[found->second].missing -= 1;
    launch_full();
  }

  void launch_rest() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Bucket& bucket : buckets_) bucket.missing = 0;
    launch_full();
  }

  // Waits for at most `patience` for the sums, first to last; true once all are in the flat gradient.
  bool wait(std::chrono::milliseconds patience) {
    const at::NoGradGuard no_grad;
    const auto until = ddpm::Clock::now() + patience;
    for (Bucket& bucket : buckets_) {
      if (!bucket.pending) continue;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - ddpm::Clock::now());
      if (!bucket.pending->wait(std::max(left, std::chrono::milliseconds(0)))) return false;
      note(*bucket.pending);
      if (in_bf16_) bucket.part.copy_(bucket.sent);
      bucket.sent.reset();
      bucket.pending.reset();
    }
    return true;
  }

  // Nanoseconds in which at least one bucket was under way, since the last call.
  int64_t busy_ns() {
    const int64_t busy = busy_ns_;
    busy_ns_ = 0;
    return busy;
  }

 private:
  // In order, so that all ranks send the same.
  void launch_full() {
    const at::NoGradGuard no_grad;
    for (; next_ < buckets_.size() && buckets_[next_].missing == 0; ++next_) {
      Bucket& bucket = buckets_[next_];
      if (in_bf16_) bucket.sent = bucket.part.to(at::kBFloat16);
      std::vector<Tensor> tensors{in_bf16_ ? bucket.sent : bucket.part};
      bucket.pending = std::make_unique<ddpm::Pending>(group_->allreduce(tensors, c10d::AllreduceOptions()));
    }
  }

  void note(const ddpm::Pending& pending) {
    const auto begun = std::max(pending.begun(), busy_until_);
    const auto ended = pending.ended();
    if (ended <= begun) return;
    busy_ns_ += std::chrono::duration_cast<std::chrono::nanoseconds>(ended - begun).count();
    busy_until_ = ended;
  }

  c10::intrusive_ptr<c10d::Backend> group_;
  Tensor grads_;
  bool in_bf16_;
  std::vector<Bucket> buckets_;
  std::unordered_map<const c10::TensorImpl*, size_t> bucket_of_;
  std::unordered_set<const c10::TensorImpl*> arrived_;
  // Backward may run on a thread of its own.
  std::mutex mutex_;
  // The first bucket that is not sent yet.
  size_t next_ = 0;
  ddpm::Clock::time_point busy_until_;
  int64_t busy_ns_ = 0;
};

// The buckets that wait for gradients: one network is trained at a time.
std::atomic<Buckets*> armed{nullptr};

struct Arrival : torch::autograd::PostAccumulateGradHook {
  void operator()(const torch::autograd::Variable& weight) override {
    ddpm::gradient_arrived(weight.unsafeGetTensorImpl());
  }
};

}  // namespace

void ddpm::gradient_arrived(const c10::TensorImpl* weight) {
  if (Buckets* buckets = armed.load()) buckets->arrive(weight);
}

extern "C" {

// Buckets of `grads`, [P]; each begins at `starts` and has `lengths` values, in the order in which they are sent.
// `bucket_of` says for each of the weights which bucket has its gradient.
int ddpm_buckets_make(void* group, at::Tensor* grads, const int64_t* starts, const int64_t* lengths, int64_t count,
                      at::Tensor** weights, const int64_t* bucket_of, int64_t weight_count, int in_bf16, void** out) {
  return guarded([&] {
    auto buckets = std::make_unique<Buckets>(*static_cast<c10::intrusive_ptr<c10d::Backend>*>(group), *grads, in_bf16);
    for (int64_t i = 0; i < count; ++i) buckets->add(starts[i], lengths[i]);
    for (int64_t i = 0; i < weight_count; ++i) {
      buckets->watch(*weights[i], bucket_of[i]);
      torch::autograd::impl::set_post_acc_grad_hooks(*weights[i], std::make_unique<Arrival>());
    }
    *out = buckets.release();
  });
}

// The next backward pass sends the buckets.
int ddpm_buckets_arm(void* buckets) {
  return guarded([&] {
    static_cast<Buckets*>(buckets)->arm();
    armed = static_cast<Buckets*>(buckets);
  });
}

// The backward pass is over: sends what it had no gradients for.
int ddpm_buckets_launch_rest(void* buckets) {
  armed = nullptr;
  return guarded([&] { static_cast<Buckets*>(buckets)->launch_rest(); });
}

// Waits for the sums, at most for a time; `done` is 1 when all are there.
int ddpm_buckets_wait(void* buckets, int64_t timeout_ms, int* done) {
  return guarded([&] { *done = static_cast<Buckets*>(buckets)->wait(std::chrono::milliseconds(timeout_ms)); });
}

int64_t ddpm_buckets_busy_ns(void* buckets) { return static_cast<Buckets*>(buckets)->busy_ns(); }

void ddpm_buckets_drop(void* buckets) {
  armed = nullptr;
  delete static_cast<Buckets*>(buckets);
}

}  // extern "C"
