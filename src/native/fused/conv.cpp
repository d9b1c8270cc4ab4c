#include "conv.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "../guard.h"
#include "../weights.h"
#include "kept_filters.h"
#include "maps.h"
#include "winograd_conv.h"

namespace ddpm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Below these the transforms cost more than they save: pixels of all images, as filters are transformed once for all
// of them, and channels, as each value of a map is transformed once for all channels of the other one.
struct Least {
  int64_t pixels, channels;
};
constexpr Least kForward{1024, 32}, kOfInput{256, 32}, kOfWeight{256, 128};

bool by_tiles(const Tensor& map, const Tensor& weight, Least least) {
  return map.scalar_type() == at::kFloat && weight.size(2) == 3 && weight.size(3) == 3 &&
         std::min(weight.size(0), weight.size(1)) >= least.channels &&
         map.size(0) * map.size(2) * map.size(3) >= least.pixels;
}

// libtorch's gradient of x or of the weight.
Tensor direct_backward(const Tensor& d, const Tensor& x, const Tensor& weight, bool of_input) {
  const int64_t padding = weight.size(2) / 2;
  auto grads = at::convolution_backward(d, x, weight, at::OptionalIntArrayRef(), {1, 1}, {padding, padding}, {1, 1},
                                        false, {0, 0}, 1, {of_input, !of_input, false});
  return of_input ? dense(std::get<0>(grads)) : std::get<1>(grads);
}

class Conv3x3 : public torch::autograd::Function<Conv3x3> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["biased"] = bias.has_value();
    return conv(x, weight, bias.value_or(Tensor()));
  }

  static variable_list backward(AutogradContext* ctx, variable_list given) {
    const auto kept = ctx->get_saved_variables();
    const Tensor &x = kept[0], &weight = kept[1], d = dense(given[0]);
    return {ctx->needs_input_grad(0) ? conv_of_input(d, x, weight) : Tensor(),
            ctx->needs_input_grad(1) ? conv_of_weight(d, x, weight) : Tensor(),
            ctx->saved_data["biased"].toBool() ? d.sum({0, 2, 3}) : Tensor()};
  }
};

// True if oneDNN's own operations support bf16 on this processor; libtorch's convolution does on any.
bool onednn_has_bf16() {
  static const bool has = c10::Dispatcher::singleton()
                              .findSchemaOrThrow("mkldnn::_is_mkldnn_bf16_supported", "")
                              .typed<bool()>()
                              .call();
  return has;
}

// oneDNN's convolution fused with silu; filters may be in oneDNN's own layout.
Tensor pointwise(const Tensor& x, const Tensor& filters, const Tensor& bias, bool silu) {
  using Call = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, at::IntArrayRef, at::IntArrayRef,
                      at::IntArrayRef, int64_t, std::string_view, c10::List<std::optional<at::Scalar>>,
                      std::optional<std::string_view>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_convolution_pointwise", "")
                             .typed<Call>();
  const int64_t padding = filters.size(2) / 2;
  const auto shift = bias.defined() ? std::optional<Tensor>(bias) : std::nullopt;
  const c10::List<std::optional<at::Scalar>> no_numbers;
  return dense(op.call(x, filters, shift, {padding, padding}, {1, 1}, {1, 1}, 1, silu ? "swish" : "none", no_numbers,
                       ""));
}

}  // namespace

Tensor conv(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (by_tiles(x, weight, kForward)) return winograd_conv(x, weight, {bias, false});
  const auto shift = bias.defined() ? std::optional<Tensor>(bias) : std::nullopt;
  const int64_t padding = weight.size(2) / 2;
  return dense(at::convolution(x, weight, shift, {1, 1}, {padding, padding}, {1, 1}, false, {0, 0}, 1));
}

Tensor sampled_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, bool silu) {
  if (by_tiles(x, weight, kForward)) return winograd_conv(x, weight, {bias, silu});
  if (x.scalar_type() == at::kFloat) return silu ? pointwise(x, weight, bias, true) : conv(x, weight, bias);
  const Tensor shift = bias.defined() ? bias.to(at::kBFloat16) : bias;
  if (!onednn_has_bf16()) {
    const Tensor y = conv(x, weight.to(at::kBFloat16), shift);
    return silu ? at::silu(y) : y;
  }
  KeptFilters* kept = KeptFilters::in_use;
  return pointwise(x, kept ? kept->of(weight, x) : weight.to(at::kBFloat16), shift, silu);
}

Tensor conv_of_input(const Tensor& d, const Tensor& x, const Tensor& weight) {
  return by_tiles(d, weight, kOfInput) ? winograd_conv_of_input(d, weight) : direct_backward(d, x, weight, true);
}

Tensor conv_of_weight(const Tensor& d, const Tensor& x, const Tensor& weight) {
  return by_tiles(d, weight, kOfWeight) ? winograd_conv_of_weight(d, x) : direct_backward(d, x, weight, false);
}

Tensor conv3x3(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  const bool in_bf16 = at::autocast::is_autocast_enabled(at::kCPU);
  if (x.is_cpu() && in_bf16 && KeptFilters::in_use && !at::GradMode::is_enabled()) {
    return sampled_conv(dense(x).to(at::kBFloat16), weight, bias.value_or(Tensor()), false);
  }
  if (x.is_cpu() && x.scalar_type() == at::kFloat && !in_bf16) return Conv3x3::apply(dense(x), weight, bias);
  return at::conv2d(x, weight, bias, {1, 1}, {1, 1});
}

}  // namespace ddpm

extern "C" {

// `bias` may be null; see src/native/fused.rs.
int ddpm_conv3x3(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, at::Tensor** out) {
  return ddpm::guarded([&] {
    const auto shift = bias ? std::optional<at::Tensor>(ddpm::cast_weight(bias->contiguous())) : std::nullopt;
    *out = new at::Tensor(ddpm::conv3x3(*x, ddpm::cast_weight(*weight), shift));
  });
}

}  // extern "C"
