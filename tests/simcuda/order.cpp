#include "order.h"

#include <algorithm>
#include <cstdio>
#include <iterator>

namespace simcuda {

thread_local c10::StreamId current_stream = 0;

c10::StreamId new_stream() {
  static std::atomic<c10::StreamId> next{1};
  return next++;
}

Order& Order::get() {
  static Order* order = new Order;
  return *order;
}

void Order::merge(Clock& into, const Clock& from) {
  for (auto& [stream, n] : from) into[stream] = std::max(into[stream], n);
}

bool Order::before(c10::StreamId earlier, uint64_t n, c10::StreamId stream) {
  return n == 0 || earlier == stream || known_[stream][earlier] >= n || host_[earlier] >= n;
}

void Order::race(const char* what, const char* name, c10::StreamId one, c10::StreamId other) {
  ++races_;
  std::fprintf(stderr, "simcuda: RACE: %s in %s: streams %ld and %ld are not ordered\n", what, name, long(one),
               long(other));
}

void Order::work(c10::StreamId stream, const Touched& touched, const char* name) {
  std::lock_guard<std::mutex> lock(mutex_);
  // What the host has waited for is done before anything that it queues now.
  merge(known_[stream], host_);
  const uint64_t now = ++issued_[stream];
  for (auto& [data, writes] : touched) {
    if (!data) continue;
    Uses& use = uses_[data];
    if (!before(use.writer, use.written, stream)) {
      race(writes ? "write after write" : "read after write", name, use.writer, stream);
    }
    if (!writes) {
      use.reads[stream] = now;
      continue;
    }
    for (auto& [reader, n] : use.reads) {
      if (!before(reader, n, stream)) race("write after read", name, reader, stream);
    }
    use.writer = stream;
    use.written = now;
    use.reads.clear();
  }
}

void Order::allocated(const void* data, c10::StreamId stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  Uses fresh;
  fresh.owner = stream;
  uses_[data] = fresh;
}

void Order::freed(const void* data) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = uses_.find(data);
  if (found == uses_.end()) return;
  Uses& use = found->second;
  if (!before(use.writer, use.written, use.owner)) race("freed after a write", "free", use.writer, use.owner);
  for (auto& [reader, n] : use.reads) {
    if (!before(reader, n, use.owner)) race("freed after a read", "free", reader, use.owner);
  }
  uses_.erase(found);
}

Order::Clock Order::snapshot(c10::StreamId stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  Clock clock = known_[stream];
  clock[stream] = issued_[stream];
  return clock;
}

void Order::host_waits(const Clock& clock) {
  std::vector<Later> due;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    merge(host_, clock);
    bool all_done = true;
    for (auto& [stream, n] : issued_) all_done = all_done && host_[stream] >= n;
    if (all_done) ++idle_;
    auto is_due = [&](const Later& later) { return host_[later.stream] >= later.n; };
    auto first = std::stable_partition(later_.begin(), later_.end(), [&](auto& later) { return !is_due(later); });
    due.assign(std::make_move_iterator(first), std::make_move_iterator(later_.end()));
    later_.erase(first, later_.end());
  }
  for (auto& later : due) later.body();
}

void Order::host_waits_for_all() {
  std::unique_lock<std::mutex> lock(mutex_);
  const Clock all = issued_;
  lock.unlock();
  host_waits(all);
}

void Order::when_host_has_waited(c10::StreamId stream, std::function<void()> body) {
  std::lock_guard<std::mutex> lock(mutex_);
  later_.push_back({stream, issued_[stream], std::move(body)});
}

void Order::stream_waits(c10::StreamId stream, const Clock& clock) {
  std::lock_guard<std::mutex> lock(mutex_);
  merge(known_[stream], clock);
}

}  // namespace simcuda
