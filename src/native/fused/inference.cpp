// Convolutions of a network that only looks: fused with their ReLU, filters kept in the layout that oneDNN likes for
// the maps that come. f32 on a CPU.

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <string_view>

#include "../guard.h"
#include "maps.h"

namespace ddpm {
namespace {

using at::Tensor;

Tensor kept_filter(const Tensor& weight, at::IntArrayRef maps, int64_t stride, at::IntArrayRef padding) {
  using Call = Tensor(const Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t,
                      at::OptionalIntArrayRef);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_convolution_weight", "")
                             .typed<Call>();
  return op.call(weight, padding, {stride, stride}, {1, 1}, 1, maps);
}

Tensor conv_relu(const Tensor& x, const Tensor& filter, const Tensor& bias, int64_t stride, at::IntArrayRef padding) {
  using Call = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, at::IntArrayRef, at::IntArrayRef,
                      at::IntArrayRef, int64_t, std::string_view, c10::List<std::optional<at::Scalar>>,
                      std::optional<std::string_view>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_convolution_pointwise", "")
                             .typed<Call>();
  const c10::List<std::optional<at::Scalar>> no_numbers;
  return op.call(dense(x), filter, bias, padding, {stride, stride}, {1, 1}, 1, "relu", no_numbers, "");
}

}  // namespace
}  // namespace ddpm

extern "C" {

// See src/native/inference.rs.

int ddpm_kept_filter(at::Tensor* weight, const int64_t* maps, int64_t stride, const int64_t* padding,
                     at::Tensor** out) {
  return ddpm::guarded([&] { *out = new at::Tensor(ddpm::kept_filter(*weight, {maps, 4}, stride, {padding, 2})); });
}

int ddpm_conv_relu(at::Tensor* x, at::Tensor* filter, at::Tensor* bias, int64_t stride, const int64_t* padding,
                   at::Tensor** out) {
  return ddpm::guarded([&] { *out = new at::Tensor(ddpm::conv_relu(*x, *filter, *bias, stride, {padding, 2})); });
}

}  // extern "C"
