// What a run did on the device: each time that the host waited, by kind, and a few other counts.

#pragma once

#include <cstdint>
#include <cstdio>

namespace simcuda {

enum What {
  // The host waits for the device:
  item,            // a number is read
  d2h,             // a copy to the host that blocks, or one to memory that is not pinned
  h2d,             // a copy from the host that blocks, or one from memory that is not pinned
  data_dependent,  // an operator whose result has a size that only the device knows, such as nonzero
  host_index,      // indices that are on the CPU
  stream,          // a stream, an event or the device is waited for by name
  event,
  device,
  kinds_of_waits,
  // It does not:
  kernels = kinds_of_waits,
  h2d_async,
  d2h_async,
  reseeds,
  casts,  // copies within the device that change the kind of numbers
  bytes,  // read and written by operators: each argument and result once
  kinds,
};

// `which` names the operator or call.
void count(What what, const char* which);

// Adds to `bytes`.
void count_bytes(uint64_t moved);

uint64_t counted(What what);

// All waits of the host.
uint64_t waits();

// The counts as members of a JSON object: each kind, and "by_name".
void write_counts(std::FILE* out);

// An environment variable as a number.
uint64_t number_from(const char* name, uint64_t otherwise);

}  // namespace simcuda
