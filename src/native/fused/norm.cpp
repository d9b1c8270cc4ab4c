// Norms fused with the operations around them in a U-Net, on a CPU, as one autograd operation each:
//
//   group_norm_silu   silu(group_norm(x + t) * weight + bias)
//   rms_norm          x / |x| * weight + bias, |x| the length of a pixel's channels; with or without silu
//
// weight and bias are per image and channel, so that the time embedding can scale and shift too. A group norm reads x
// twice and writes once, the RMS norm reads once. The backward pass keeps x and a few numbers per channel, which
// PyTorch keeps for the norm alone.
//
// All maps are channels last in memory, in f32. A group norm also accepts bf16: computed in f32, with only the result
// rounded.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "../guard.h"
#include "maps.h"
#include "rows.h"

namespace ddpm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Values per image and channel.
Tensor a_channel(const Tensor& x, int64_t kinds) {
  return at::empty({kinds, x.size(0), x.size(1)}, x.options().dtype(at::kFloat).memory_format(c10::nullopt));
}

// Coefficients of a group norm, [5, images, channels]: silu's argument is x * scale + shift, the normalised x is
// x * rstd + centre, and its mean over the pixels is mean_hat.
struct Affine {
  Tensor numbers;
  float *scale, *shift, *rstd, *centre, *mean_hat;

  explicit Affine(Tensor given) : numbers(std::move(given)) {
    const int64_t step = numbers.size(1) * numbers.size(2);
    scale = numbers.mutable_data_ptr<float>();
    shift = scale + step;
    rstd = shift + step;
    centre = rstd + step;
    mean_hat = centre + step;
  }
};

class GroupNormSilu : public torch::autograd::Function<GroupNormSilu> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& t, const Tensor& weight,
                        const Tensor& bias, int64_t groups, double eps) {
    const Rows rows(x);
    const int64_t channels = rows.channels, width = channels / groups;
    Tensor y = at::empty_like(x);
    const Affine affine(a_channel(x, 5));
    Sums sums(rows);
    const float* time = t ? t->const_data_ptr<float>() : nullptr;
    const float *w = weight.const_data_ptr<float>(), *b = bias.const_data_ptr<float>();
    const double pixels = static_cast<double>(rows.pixels);

    rows.each_twice(
        [&](int64_t n, int64_t i) {
          rows_moments(rows.read(x, n, i), sums.first(n, i), sums.second(n, i), rows.count(i), channels);
        },
        [&](int64_t n) {
          const auto added = [&](int64_t c) { return time ? static_cast<double>(time[n * channels + c]) : 0.0; };
          for (int64_t group = 0; group < groups; ++group) {
            // Of x + t, from the sums of x.
            double sum = 0, squares = 0;
            for (int64_t c = group * width; c < (group + 1) * width; ++c) {
              const auto [one, two] = sums.of(n, c);
              const double d = added(c);
              sum += one + pixels * d;
              squares += two + 2 * d * one + pixels * d * d;
            }
            const auto [mean, inverse] = mean_and_rstd(sum, squares, static_cast<double>(width) * pixels, eps);
            for (int64_t c = group * width; c < (group + 1) * width; ++c) {
              const int64_t at = n * channels + c;
              const double centre = (added(c) - mean) * inverse;
              affine.scale[at] = static_cast<float>(inverse * w[at]);
              affine.shift[at] = static_cast<float>(centre * w[at] + b[at]);
              affine.rstd[at] = static_cast<float>(inverse);
              affine.centre[at] = static_cast<float>(centre);
              affine.mean_hat[at] = static_cast<float>(sums.of(n, c)[0] / pixels * inverse + centre);
            }
          }
        },
        [&](int64_t n, int64_t i) {
          rows_scale_silu(rows.read(x, n, i), affine.scale + n * channels, affine.shift + n * channels,
                          rows.write(y, n, i), rows.count(i), channels);
        });
    ctx->save_for_backward({x, affine.numbers});
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["adds"] = t.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list given) {
    const auto kept = ctx->get_saved_variables();
    const Tensor &x = kept[0], d = dense(given[0]);
    const Affine affine(kept[1]);
    const Rows rows(x);
    const int64_t groups = ctx->saved_data["groups"].toInt();
    const int64_t channels = rows.channels, width = channels / groups;
    const double pixels = static_cast<double>(rows.pixels);
    Tensor dx = at::empty_like(x);
    const Tensor of_channels = a_channel(x, 3), lines = a_channel(x, 2);
    const Tensor dt = of_channels[0], dweight = of_channels[1], dbias = of_channels[2];
    float *of_t = dt.mutable_data_ptr<float>(), *of_weight = dweight.mutable_data_ptr<float>();
    float* of_bias = dbias.mutable_data_ptr<float>();
    // x * slope + offset is subtracted from the gradient of silu's argument.
    float* slope = lines.mutable_data_ptr<float>();
    float* offset = slope + rows.images * channels;
    Sums sums(rows);

    rows.each_twice(
        [&](int64_t n, int64_t i) {
          const int64_t c = n * channels;
          rows_scale_silu_backward_sums(rows.read(d, n, i), rows.read(x, n, i), affine.scale + c, affine.shift + c,
                                        affine.rstd + c, affine.centre + c, sums.first(n, i), sums.second(n, i),
                                        rows.count(i), channels);
        },
        [&](int64_t n) {
          for (int64_t group = 0; group < groups; ++group) {
            double sum = 0, dot = 0;
            for (int64_t c = group * width; c < (group + 1) * width; ++c) {
              const auto [one, two] = sums.of(n, c);
              const int64_t at = n * channels + c;
              of_bias[at] = static_cast<float>(one);
              of_weight[at] = static_cast<float>(two);
              sum += one * affine.scale[at];
              dot += two * affine.scale[at];
            }
            sum /= static_cast<double>(width) * pixels;
            dot /= static_cast<double>(width) * pixels;
            for (int64_t c = group * width; c < (group + 1) * width; ++c) {
              const int64_t at = n * channels + c;
              slope[at] = static_cast<float>(dot * affine.rstd[at]);
              offset[at] = static_cast<float>(dot * affine.centre[at] + sum);
              // The sum of dx over the pixels.
              of_t[at] = static_cast<float>(affine.scale[at] * sums.of(n, c)[0] -
                                            pixels * (sum + dot * affine.mean_hat[at]));
            }
          }
        },
        [&](int64_t n, int64_t i) {
          const int64_t c = n * channels;
          rows_scale_silu_backward(rows.read(d, n, i), rows.read(x, n, i), affine.scale + c, affine.shift + c,
                                   slope + c, offset + c, rows.write(dx, n, i), rows.count(i), channels);
        });
    const bool adds = ctx->saved_data["adds"].toBool();
    return {dx, adds ? dt : Tensor(), dweight, dbias, Tensor(), Tensor()};
  }
};

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        double smallest, bool silu) {
    const Rows rows(x);
    Tensor y = at::empty_like(x);
    const float *w = weight.const_data_ptr<float>(), *b = bias.const_data_ptr<float>();
    rows.each([&](int64_t n, int64_t i) {
      const int64_t c = n * rows.channels;
      rows_rms(rows.read(x, n, i), w + c, b + c, static_cast<float>(smallest), silu, rows.write(y, n, i),
               rows.count(i), rows.channels);
    });
    ctx->save_for_backward({x, weight, bias});
    ctx->saved_data["smallest"] = smallest;
    ctx->saved_data["silu"] = silu;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list given) {
    const auto kept = ctx->get_saved_variables();
    const Tensor &x = kept[0], &weight = kept[1], &bias = kept[2], d = dense(given[0]);
    const auto smallest = static_cast<float>(ctx->saved_data["smallest"].toDouble());
    const bool silu = ctx->saved_data["silu"].toBool();
    const Rows rows(x);
    Tensor dx = at::empty_like(x);
    Sums sums(rows);
    const float *w = weight.const_data_ptr<float>(), *b = bias.const_data_ptr<float>();
    rows.each([&](int64_t n, int64_t i) {
      const int64_t c = n * rows.channels;
      rows_rms_backward(rows.read(d, n, i), rows.read(x, n, i), w + c, b + c, smallest, silu, rows.write(dx, n, i),
                        sums.first(n, i), sums.second(n, i), rows.count(i), rows.channels);
    });
    const Tensor of_channels = a_channel(x, 2);
    float* of_bias = of_channels.mutable_data_ptr<float>();
    float* of_weight = of_bias + rows.images * rows.channels;
    for (int64_t n = 0; n < rows.images; ++n) {
      for (int64_t c = 0; c < rows.channels; ++c) {
        const auto [one, two] = sums.of(n, c);
        of_bias[n * rows.channels + c] = static_cast<float>(one);
        of_weight[n * rows.channels + c] = static_cast<float>(two);
      }
    }
    return {dx, of_channels[1], of_channels[0], Tensor(), Tensor()};
  }
};

}  // namespace
}  // namespace ddpm

extern "C" {

// `t` may be null; see src/native/fused.rs.
int ddpm_group_norm_silu(at::Tensor* x, at::Tensor* t, at::Tensor* weight, at::Tensor* bias, int64_t groups,
                         double eps, at::Tensor** out) {
  return ddpm::guarded([&] {
    // The loops require contiguous maps.
    const auto time = t ? std::optional<at::Tensor>(t->contiguous()) : std::nullopt;
    *out = new at::Tensor(ddpm::GroupNormSilu::apply(ddpm::dense(*x), time, weight->contiguous(), bias->contiguous(),
                                                     groups, eps));
  });
}

int ddpm_rms_norm(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, double smallest, int silu, at::Tensor** out) {
  return ddpm::guarded([&] {
    *out = new at::Tensor(
        ddpm::RmsNorm::apply(ddpm::dense(*x), weight->contiguous(), bias->contiguous(), smallest, silu != 0));
  });
}

}  // extern "C"
