// The residual block of Keras-DDPM's U-Net on a CPU, as one autograd operation:
//
//   h   = silu(conv(silu(conv(x + t, w1)), w2))
//   out = group_norm(h + r) [+ skip],  r = x or conv(x, w_shortcut)
//
// Operations between the convolutions (conv.h) are limited by memory traffic, so each map is read and written as few
// times as possible (rows.h). The backward pass keeps x and the outputs of both convolutions; it recomputes x + t,
// both silu and the normed map. A checkpointed block keeps only x and recomputes the convolutions too: the same
// operations on the same values, so the same bits.
//
// All maps are channels last in memory. x, out and maps between blocks are f32; under autocast the convolutions have
// bf16 inputs and outputs, while the norm and sums are computed in f32.

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <utility>

#include "../guard.h"
#include "conv.h"
#include "maps.h"
#include "rows.h"

namespace ddpm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// x + t in `kind`.
Tensor add_time(const Tensor& x, const Tensor& t, at::ScalarType kind) {
  const Rows rows(x);
  Tensor y = at::empty_like(x, x.options().dtype(kind));
  rows.each([&](int64_t n, int64_t i) {
    rows_add(rows.read(x, n, i), t.const_data_ptr<float>() + n * rows.channels, rows.write(y, n, i), rows.count(i),
             rows.channels);
  });
  return y;
}

Tensor swish(const Tensor& x) {
  const Rows rows(x);
  Tensor a = at::empty_like(x);
  rows.each([&](int64_t n, int64_t i) {
    rows_silu(rows.read(x, n, i), rows.write(a, n, i), rows.count(i), rows.channels);
  });
  return a;
}

struct Normed {
  // f32
  Tensor out;
  // [images, channels], equal within a group.
  Tensor mean, rstd;
};

// group_norm(silu(h) + r) [+ skip]; group_norm(h + r) if h is already `activated`
Normed silu_add_norm(const Tensor& h, bool activated, const Tensor& r, const Tensor& gamma, const Tensor& beta,
                     const Tensor& skip, int64_t groups, double eps) {
  const Rows rows(h);
  const int64_t channels = rows.channels, width = channels / groups;
  Normed normed{at::empty_like(h, h.options().dtype(at::kFloat)),
                at::empty({rows.images, channels}, gamma.options()),
                at::empty({rows.images, channels}, gamma.options())};
  Tensor scales = at::empty({rows.images, channels}, normed.mean.options());
  Sums sums(rows);
  float* mean = normed.mean.mutable_data_ptr<float>();
  float* rstd = normed.rstd.mutable_data_ptr<float>();
  float* scale = scales.mutable_data_ptr<float>();
  const float* g = gamma.const_data_ptr<float>();
  const float* more = skip.defined() ? skip.const_data_ptr<float>() : nullptr;

  rows.each_twice(
      [&](int64_t n, int64_t i) {
        rows_sum_and_moments(rows.read(h, n, i), rows.read(r, n, i), activated, rows.write(normed.out, n, i),
                             sums.first(n, i), sums.second(n, i), rows.count(i), channels);
      },
      [&](int64_t n) {
        for (int64_t group = 0; group < groups; ++group) {
          double sum = 0, squares = 0;
          for (int64_t c = group * width; c < (group + 1) * width; ++c) {
            const auto [one, two] = sums.of(n, c);
            sum += one;
            squares += two;
          }
          const auto [m, inverse] = mean_and_rstd(sum, squares, static_cast<double>(width * rows.pixels), eps);
          for (int64_t c = group * width; c < (group + 1) * width; ++c) {
            mean[n * channels + c] = static_cast<float>(m);
            rstd[n * channels + c] = static_cast<float>(inverse);
            scale[n * channels + c] = static_cast<float>(inverse * g[c]);
          }
        }
      },
      [&](int64_t n, int64_t i) {
        rows_normalise(rows.change(normed.out, n, i), more ? more + rows.first(n, i) : nullptr, mean + n * channels,
                       scale + n * channels, beta.const_data_ptr<float>(), rows.count(i), channels);
      });
  return normed;
}

struct NormGrads {
  // sum is f32, h of either kind.
  Tensor sum, h, gamma, beta;
};

// Gradients of group_norm(silu(h) + r): of h, of the sum (equal to that of r), of gamma and beta.
NormGrads silu_add_norm_backward(const Tensor& d, const Tensor& h, const Tensor& r, const Tensor& mean,
                                 const Tensor& rstd, const Tensor& gamma, int64_t groups) {
  const Rows rows(h);
  const int64_t channels = rows.channels, width = channels / groups;
  NormGrads grads{at::empty_like(d), at::empty_like(h), at::empty_like(gamma), at::empty_like(gamma)};
  // scale, offset and slope of each image and channel.
  Tensor factors = at::empty({3, rows.images, channels}, mean.options());
  float* scale = factors.mutable_data_ptr<float>();
  float* offset = scale + rows.images * channels;
  float* slope = offset + rows.images * channels;
  Sums sums(rows);
  const float* m = mean.const_data_ptr<float>();
  const float* s = rstd.const_data_ptr<float>();
  const float* g = gamma.const_data_ptr<float>();

  rows.each_twice(
      [&](int64_t n, int64_t i) {
        rows_norm_backward_sums(rows.read(d, n, i), rows.read(h, n, i), rows.read(r, n, i), m + n * channels,
                                s + n * channels, sums.first(n, i), sums.second(n, i), rows.count(i), channels);
      },
      [&](int64_t n) {
        for (int64_t group = 0; group < groups; ++group) {
          double sum = 0, dot = 0;
          for (int64_t c = group * width; c < (group + 1) * width; ++c) {
            const auto [one, two] = sums.of(n, c);
            sum += one * g[c];
            dot += two * g[c];
          }
          const double count = static_cast<double>(width * rows.pixels);
          for (int64_t c = group * width; c < (group + 1) * width; ++c) {
            const double inverse = s[n * channels + c];
            scale[n * channels + c] = static_cast<float>(inverse * g[c]);
            offset[n * channels + c] = static_cast<float>(inverse * sum / count);
            slope[n * channels + c] = static_cast<float>(inverse * dot / count);
          }
        }
      },
      [&](int64_t n, int64_t i) {
        rows_norm_backward(rows.read(d, n, i), rows.read(h, n, i), rows.read(r, n, i), m + n * channels,
                           s + n * channels, scale + n * channels, offset + n * channels, slope + n * channels,
                           rows.write(grads.sum, n, i), rows.write(grads.h, n, i), rows.count(i), channels);
      });

  for (int64_t c = 0; c < channels; ++c) {
    double of_gamma = 0, of_beta = 0;
    for (int64_t n = 0; n < rows.images; ++n) {
      const auto [sum, dot] = sums.of(n, c);
      of_beta += sum;
      of_gamma += dot;
    }
    grads.gamma.mutable_data_ptr<float>()[c] = static_cast<float>(of_gamma);
    grads.beta.mutable_data_ptr<float>()[c] = static_cast<float>(of_beta);
  }
  return grads;
}

// Turns the gradient of silu(h) into that of h in place; returns silu(h).
Tensor silu_backward_(const Tensor& d, const Tensor& h) {
  const Rows rows(h);
  Tensor a = at::empty_like(h);
  rows.each([&](int64_t n, int64_t i) {
    rows_silu_backward(rows.change(d, n, i), rows.read(h, n, i), rows.write(a, n, i), rows.count(i), rows.channels);
  });
  return a;
}

// to += d; returns the sums of d over the pixels, [images, channels].
Tensor accumulate_(const Tensor& to, const Tensor& d) {
  const Rows rows(d);
  Sums sums(rows);
  Tensor out = at::empty({rows.images, rows.channels}, to.options().memory_format(c10::nullopt));
  float* total = out.mutable_data_ptr<float>();
  rows.each([&](int64_t n, int64_t i) {
    rows_accumulate(rows.change(to, n, i), rows.read(d, n, i), sums.first(n, i), rows.count(i), rows.channels);
  });
  for (int64_t n = 0; n < rows.images; ++n) {
    for (int64_t c = 0; c < rows.channels; ++c) {
      total[n * rows.channels + c] = static_cast<float>(sums.of(n, c)[0]);
    }
  }
  return out;
}

// Filters in the kind of their convolutions.
struct Filters {
  Tensor w1, w2, shortcut;

  Filters(const Tensor& first, const Tensor& second, const Tensor& of_shortcut, at::ScalarType kind)
      : w1(first.to(kind)), w2(second.to(kind)), shortcut(of_shortcut.defined() ? of_shortcut.to(kind) : Tensor()) {}

  at::ScalarType kind() const { return w1.scalar_type(); }
};

// Outputs of a block's convolutions; `r` is x itself if there is no shortcut.
struct Convolved {
  Tensor c1, c2, r;
};

Convolved convolve(const Tensor& x, const Tensor& t, const Filters& w) {
  Tensor r = w.shortcut.defined() ? conv(x.to(w.kind()), w.shortcut) : x;
  Tensor c1 = conv(add_time(x, t, w.kind()), w.w1);
  Tensor c2 = conv(swish(c1), w.w2);
  return {c1, c2, r};
}

// A block's weights in f32, and the skip added to its output (undefined: nothing).
struct Block {
  Tensor w1, w2, shortcut, gamma, beta, skip;
  int64_t groups;
  double eps;
};

// The block without gradients.
Tensor sampled(const Tensor& x, const Tensor& t, const Block& b, at::ScalarType kind) {
  const Tensor none;
  Tensor r = b.shortcut.defined() ? sampled_conv(x.to(kind), b.shortcut, none, false) : x;
  Tensor h = sampled_conv(add_time(x, t, kind), b.w1, none, true);
  h = sampled_conv(h, b.w2, none, true);
  return silu_add_norm(h, true, r, b.gamma, b.beta, b.skip, b.groups, b.eps).out;
}

class ResidualBlock : public torch::autograd::Function<ResidualBlock> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& t, const Tensor& w1, const Tensor& w2,
                        const std::optional<Tensor>& shortcut, const Tensor& gamma, const Tensor& beta,
                        const std::optional<Tensor>& skip, int64_t groups, double eps, bool checkpointed,
                        at::ScalarType kind) {
    const Filters w(w1, w2, shortcut.value_or(Tensor()), kind);
    Convolved maps = convolve(x, t, w);
    Normed normed = silu_add_norm(maps.c2, false, maps.r, gamma, beta, skip.value_or(Tensor()), groups, eps);
    if (checkpointed) maps = {};
    if (!shortcut) maps.r = Tensor();
    ctx->save_for_backward(
        {x, t, w.w1, w.w2, w.shortcut, gamma, normed.mean, normed.rstd, maps.c1, maps.c2, maps.r});
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["skips"] = skip.has_value();
    return normed.out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list given) {
    const auto kept = ctx->get_saved_variables();
    const Tensor &x = kept[0], &t = kept[1], &gamma = kept[5], &mean = kept[6], &rstd = kept[7];
    const Filters w(kept[2], kept[3], kept[4], kept[2].scalar_type());
    Convolved maps{kept[8], kept[9], w.shortcut.defined() ? kept[10] : x};
    if (!maps.c1.defined()) maps = convolve(x, t, w);
    const Tensor d = dense(given[0]);

    NormGrads norm =
        silu_add_norm_backward(d, maps.c2, maps.r, mean, rstd, gamma, ctx->saved_data["groups"].toInt());
    // Free recomputed maps right after use: they add to everything that is kept.
    maps.c2.reset();
    maps.r.reset();
    Tensor d1 = conv_of_input(norm.h, maps.c1, w.w2);
    Tensor a1 = silu_backward_(d1, maps.c1);
    maps.c1.reset();
    Tensor dw2 = conv_of_weight(norm.h, a1, w.w2);
    a1.reset();
    norm.h.reset();
    Tensor xt = add_time(x, t, w.kind());
    Tensor dw1 = conv_of_weight(d1, xt, w.w1);
    // Only the shape is used below, and x is kept anyway.
    if (x.scalar_type() == w.kind()) xt = x;
    Tensor dxt = conv_of_input(d1, xt, w.w1);
    d1.reset();
    xt.reset();
    Tensor dx = std::move(norm.sum), dw_shortcut;
    if (w.shortcut.defined()) {
      const Tensor dr = std::exchange(dx, Tensor()).to(w.kind()), in = x.to(w.kind());
      dw_shortcut = conv_of_weight(dr, in, w.shortcut);
      dx = conv_of_input(dr, in, w.shortcut).to(at::kFloat);
    }
    Tensor dt = accumulate_(dx, dxt);
    Tensor dskip = ctx->saved_data["skips"].toBool() ? given[0] : Tensor();
    return {dx, dt, dw1, dw2, dw_shortcut, norm.gamma, norm.beta, dskip, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace
}  // namespace ddpm

extern "C" {

// One residual block; `shortcut` and `skip` may be null. See src/native/fused.rs.
int ddpm_residual_block(at::Tensor* x, at::Tensor* t, at::Tensor* w1, at::Tensor* w2, at::Tensor* shortcut,
                        at::Tensor* gamma, at::Tensor* beta, at::Tensor* skip, int64_t groups, double eps,
                        int checkpointed, at::Tensor** out) {
  return ddpm::guarded([&] {
    using Maybe = std::optional<at::Tensor>;
    // The loops require contiguous maps.
    const at::Tensor map = ddpm::dense(*x), time = t->contiguous();
    const at::Tensor scale = gamma->contiguous(), shift = beta->contiguous();
    const Maybe w_shortcut = shortcut ? Maybe(*shortcut) : std::nullopt;
    const Maybe more = skip ? Maybe(ddpm::dense(*skip)) : std::nullopt;
    const auto kind = at::autocast::is_autocast_enabled(at::kCPU) ? at::kBFloat16 : at::kFloat;
    if (at::GradMode::is_enabled()) {
      *out = new at::Tensor(ddpm::ResidualBlock::apply(map, time, *w1, *w2, w_shortcut, scale, shift, more, groups,
                                                       eps, checkpointed != 0, kind));
    } else {
      const at::Tensor none;
      const ddpm::Block block{*w1,    *w2,   w_shortcut.value_or(none), scale, shift,
                              more.value_or(none), groups, eps};
      *out = new at::Tensor(ddpm::sampled(map, time, block, kind));
    }
  });
}

}  // extern "C"
