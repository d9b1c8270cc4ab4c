// Feature maps as rows of channels, f32 or bf16, and sums over them for norms.
//
// A map is summed over parts of fixed size, and these sums in f64, so that the result does not depend on the number
// of threads.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "rows.h"

namespace ddpm {

inline constexpr auto kLast = at::MemoryFormat::ChannelsLast;

// Floats of a part: its maps fit into a core's L2 cache.
inline constexpr int64_t kPart = 16 * 1024;

inline at::Tensor dense(const at::Tensor& map) { return map.contiguous(kLast); }

// A stretch of a map as f32: in place, or a copy if the map is bf16.
//
// For use as an argument: changes to a copy are written to the map at the end of the call.
class Values {
 public:
  Values(const at::Tensor& map, int64_t first, int64_t count) : count_(count) {
    if (map.scalar_type() == at::kFloat) {
      values_ = map.mutable_data_ptr<float>() + first;
    } else {
      bf16_ = reinterpret_cast<uint16_t*>(map.mutable_data_ptr<at::BFloat16>()) + first;
      copy_.reset(new float[static_cast<size_t>(count)]);
      values_ = copy_.get();
    }
  }
  Values(const Values&) = delete;
  Values& operator=(const Values&) = delete;

 protected:
  void get() const {
    if (bf16_) widen(bf16_, values_, count_);
  }
  void put() const {
    if (bf16_) narrow(values_, bf16_, count_);
  }

  float* values_;

 private:
  int64_t count_;
  uint16_t* bf16_ = nullptr;
  std::unique_ptr<float[]> copy_;
};

struct Read : Values {
  Read(const at::Tensor& map, int64_t first, int64_t count) : Values(map, first, count) { get(); }
  operator const float*() && { return values_; }
};

struct Written : Values {
  using Values::Values;
  ~Written() { put(); }
  operator float*() && { return values_; }
};

struct Changed : Written {
  Changed(const at::Tensor& map, int64_t first, int64_t count) : Written(map, first, count) { get(); }
};

// A map as rows: [images][pixels][channels].
struct Rows {
  int64_t images, pixels, channels;
  int64_t rows_of_part, parts;

  explicit Rows(const at::Tensor& map)
      : images(map.size(0)), pixels(map.size(2) * map.size(3)), channels(map.size(1)) {
    rows_of_part = std::max<int64_t>(1, kPart / channels);
    parts = (pixels + rows_of_part - 1) / rows_of_part;
  }

  // Start of a part, in values from the start of the map, and its rows.
  int64_t first(int64_t image, int64_t index) const { return (image * pixels + index * rows_of_part) * channels; }
  int64_t count(int64_t index) const { return std::min(rows_of_part, pixels - index * rows_of_part); }

  // A part of a map with these sizes.
  Read read(const at::Tensor& map, int64_t image, int64_t index) const {
    return {map, first(image, index), count(index) * channels};
  }
  Written write(const at::Tensor& map, int64_t image, int64_t index) const {
    return {map, first(image, index), count(index) * channels};
  }
  Changed change(const at::Tensor& map, int64_t image, int64_t index) const {
    return {map, first(image, index), count(index) * channels};
  }

  // Calls f(image, part) for all parts, on all threads.
  template <typename F>
  void each(F&& f) const {
    at::parallel_for(0, images * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i / parts, i % parts);
    });
  }

  // Calls first(image, part) for all parts of an image, then between(image), then second(image, part): image
  // by image, so that the second pass finds in the cache what the first one read.
  template <typename F, typename G, typename H>
  void each_twice(F&& first, G&& between, H&& second) const {
    if (images >= at::get_num_threads()) {
      at::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
          for (int64_t i = 0; i < parts; ++i) first(n, i);
          between(n);
          for (int64_t i = 0; i < parts; ++i) second(n, i);
        }
      });
      return;
    }
    for (int64_t n = 0; n < images; ++n) {
      const auto over_parts = [&](auto& f) {
        at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) f(n, i);
        });
      };
      over_parts(first);
      between(n);
      over_parts(second);
    }
  }
};

// Two f32 sums per channel, for every part of every image.
class Sums {
 public:
  explicit Sums(const Rows& rows)
      : rows_(rows), values_(static_cast<size_t>(rows.images * rows.parts * 2 * rows.channels), 0.0f) {}

  float* first(int64_t image, int64_t part) {
    return values_.data() + (image * rows_.parts + part) * 2 * rows_.channels;
  }
  float* second(int64_t image, int64_t part) { return first(image, part) + rows_.channels; }

  // Both sums of a channel over an image.
  std::array<double, 2> of(int64_t image, int64_t channel) const {
    std::array<double, 2> sums{0, 0};
    const float* at = values_.data() + image * rows_.parts * 2 * rows_.channels + channel;
    for (int64_t i = 0; i < rows_.parts; ++i, at += 2 * rows_.channels) {
      sums[0] += at[0];
      sums[1] += at[rows_.channels];
    }
    return sums;
  }

 private:
  const Rows& rows_;
  std::vector<float> values_;
};

// Mean and 1 / sqrt(variance + eps) of `count` values, from their sum and that of their squares.
inline std::array<double, 2> mean_and_rstd(double sum, double squares, double count, double eps) {
  const double mean = sum / count;
  const double variance = squares / count - mean * mean;
  // Not max(…, 0): a NaN variance must stay NaN.
  return {mean, 1.0 / std::sqrt((variance < 0 ? 0 : variance) + eps)};
}

}  // namespace ddpm
