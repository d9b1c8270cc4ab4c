// Work of a process group that is under way.

#pragma once

#include <torch/csrc/distributed/c10d/Work.hpp>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>

namespace ddpm {

using Clock = std::chrono::steady_clock;

// Work, when it began and when it ended.
class Pending {
 public:
  explicit Pending(c10::intrusive_ptr<c10d::Work> work) : work_(std::move(work)) {
    work_->getFuture()->addCallback([end = end_](c10::ivalue::Future&) {
      const std::lock_guard<std::mutex> lock(end->mutex);
      end->at = Clock::now();
      end->done = true;
      end->changed.notify_all();
    });
  }

  // Waits for at most `patience`; true once it has ended. Throws what ended it early. On CUDA the work is ordered before
  // what this thread's stream does next, and the host does not wait.
  bool wait(std::chrono::milliseconds patience) {
    {
      std::unique_lock<std::mutex> lock(end_->mutex);
      if (!end_->changed.wait_for(lock, patience, [&] { return end_->done; })) return false;
    }
    work_->wait();
    return true;
  }

  Clock::time_point begun() const { return begun_; }

  // Once it has ended.
  Clock::time_point ended() const {
    const std::lock_guard<std::mutex> lock(end_->mutex);
    return end_->at;
  }

 private:
  struct End {
    std::mutex mutex;
    std::condition_variable changed;
    Clock::time_point at;
    bool done = false;
  };

  const Clock::time_point begun_ = Clock::now();
  c10::intrusive_ptr<c10d::Work> work_;
  std::shared_ptr<End> end_ = std::make_shared<End>();
};

}  // namespace ddpm
