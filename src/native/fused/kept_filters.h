// Cache of weights in bf16 across evaluations of a network: on a CPU filters in oneDNN's own layout. The weights do not
// change in the thousand evaluations of sampling, and for small maps casting and reordering filters takes longer than
// the convolution.

#pragma once

#include <ATen/core/Tensor.h>

#include <unordered_map>
#include <vector>

namespace ddpm {

class KeptFilters {
 public:
  // The filter made of `weight`, [Cout, Cin, k, k] f32, for a convolution of `x` that keeps the image's size. A
  // weight must not change after its first use.
  at::Tensor of(const at::Tensor& weight, const at::Tensor& x);

  // `weight`, f32, in bf16 in the same layout. It must not change after its first use.
  at::Tensor cast(const at::Tensor& weight);

  // The cache that convolutions on this thread use, or null.
  static thread_local KeptFilters* in_use;

 private:
  struct Entry {
    // Held, so that no other tensor can get its address.
    at::Tensor weight;
    // The shape of maps that the layout was chosen for.
    std::vector<int64_t> maps;
    at::Tensor filters;
  };
  std::unordered_map<const c10::TensorImpl*, Entry> entries_, casts_;
};

}  // namespace ddpm
