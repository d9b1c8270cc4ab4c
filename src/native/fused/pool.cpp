// Average pooling that keeps nothing: its gradient depends on the input's shape alone, but libtorch keeps the input.

#include <ATen/core/Tensor.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/avg_pool2d_backward.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "../guard.h"

namespace ddpm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class Halved : public torch::autograd::Function<Halved> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    ctx->saved_data["shape"] = x.sizes().vec();
    ctx->saved_data["layout"] = static_cast<int64_t>(x.suggest_memory_format());
    return at::avg_pool2d(x, {2, 2}, {2, 2});
  }

  static variable_list backward(AutogradContext* ctx, variable_list given) {
    const auto layout = static_cast<at::MemoryFormat>(ctx->saved_data["layout"].toInt());
    // Nobody reads its values.
    const Tensor x = at::empty(ctx->saved_data["shape"].toIntVector(), given[0].options().memory_format(layout));
    return {at::avg_pool2d_backward(given[0], x, {2, 2}, {2, 2}, {0, 0}, false, true, std::nullopt)};
  }
};

}  // namespace
}  // namespace ddpm

extern "C" {

// See src/native/fused.rs.
int ddpm_halved(at::Tensor* x, at::Tensor** out) {
  return ddpm::guarded([&] { *out = new at::Tensor(ddpm::Halved::apply(*x)); });
}

}  // extern "C"
