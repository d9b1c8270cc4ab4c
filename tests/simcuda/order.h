// The order of work on streams. Here each operator runs at once; a real device promises an order only within a stream,
// and where an event, a stream or the device was waited for. What two streams touch without such a promise is a race.

#pragma once

#include <c10/core/Stream.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace simcuda {

// The stream that this thread's work goes to.
extern thread_local c10::StreamId current_stream;

c10::StreamId new_stream();

class Order {
 public:
  // For each stream, how much of its work is surely done.
  using Clock = std::map<c10::StreamId, uint64_t>;
  // Memory that an operator touches, by the first address of its storage, and whether it is written.
  using Touched = std::vector<std::pair<const void*, bool>>;

  static Order& get();

  // One operator on a stream.
  void work(c10::StreamId stream, const Touched& touched, const char* name);
  void allocated(const void* data, c10::StreamId stream);
  // The allocator hands memory on in the order of the stream that it was allocated on.
  void freed(const void* data);

  // What an event stands for that is recorded on a stream now.
  Clock snapshot(c10::StreamId stream);
  void host_waits(const Clock& clock);
  void host_waits_for_all();
  void stream_waits(c10::StreamId stream, const Clock& clock);
  // Runs `body` once the host has waited for what is on the stream now.
  void when_host_has_waited(c10::StreamId stream, std::function<void()> body);

  uint64_t races() const { return races_; }
  // Waits of the host after which the device has nothing to do.
  uint64_t idle() const { return idle_; }

 private:
  struct Uses {
    c10::StreamId owner = 0;  // the stream that it was allocated on
    c10::StreamId writer = 0;
    uint64_t written = 0;  // the writer's clock at its last write
    Clock reads;           // since then
  };

  struct Later {
    c10::StreamId stream;
    uint64_t n;
    std::function<void()> body;
  };

  static void merge(Clock& into, const Clock& from);
  bool before(c10::StreamId earlier, uint64_t n, c10::StreamId stream);
  void race(const char* what, const char* name, c10::StreamId one, c10::StreamId other);

  std::mutex mutex_;
  Clock issued_, host_;
  std::map<c10::StreamId, Clock> known_;
  std::unordered_map<const void*, Uses> uses_;
  std::vector<Later> later_;
  std::atomic<uint64_t> races_{0}, idle_{0};
};

}  // namespace simcuda
