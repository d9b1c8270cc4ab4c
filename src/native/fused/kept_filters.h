// Filters in bf16, in the order in which oneDNN multiplies, kept from one evaluation of a network to the next. While
// images are sampled the weights stay as they are, for a thousand evaluations; casting and ordering the filters of
// small maps takes longer than their convolution.

#pragma once

#include <ATen/core/Tensor.h>

#include <unordered_map>
#include <vector>

namespace ddpm {

class KeptFilters {
 public:
  // `weight`, [Cout, Cin, k, k] f32, for a convolution of `x` that keeps the image's size. Nobody writes to a
  // weight that was once given.
  at::Tensor of(const at::Tensor& weight, const at::Tensor& x);

  // Those that convolutions on this thread take, or null.
  static thread_local KeptFilters* in_use;

 private:
  struct Entry {
    // Held, so that no other tensor comes to have its address.
    at::Tensor weight;
    // The maps that the order suits best.
    std::vector<int64_t> maps;
    at::Tensor filters;
  };
  std::unordered_map<const c10::TensorImpl*, Entry> entries_;
};

}  // namespace ddpm
