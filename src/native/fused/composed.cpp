// The residual block of Keras-DDPM's U-Net as one autograd operation, composed of libtorch's own operators, for any
// device:
//
//   out = group_norm(silu(conv(dropout(silu(conv(x + t, w1))), w2)) + r) [+ skip],  r = x or conv(x, w_shortcut)
//
// Under autocast the convolutions and what is kept are in its kind, the sum and the norm in f32. Kept are x + t, as the
// first convolution takes it, and the outputs of the convolutions, or for a checkpointed block x + t alone; besides,
// the sum where it is not cheap to compute again. The rest is computed again, with x as (x + t) - t, which in bf16 is off
// by up to 2^-9 of x + t: gradients of the norm lose digits where t is much larger than x. Casts are left to the
// operators around them: one that writes another kind than it reads saves a pass over memory.

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/native_dropout.h>
#include <ATen/ops/native_dropout_backward.h>
#include <ATen/ops/native_group_norm.h>
#include <ATen/ops/native_group_norm_backward.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/sum.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <tuple>
#include <utility>

#include "../guard.h"
#include "../weights.h"

namespace ddpm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor convolve(const Tensor& x, const Tensor& weight) {
  const int64_t padding = weight.size(2) / 2;
  return at::convolution(x, weight, {}, {1, 1}, {padding, padding}, {1, 1}, false, {0, 0}, 1);
}

// Gradients of x and of the weight.
std::pair<Tensor, Tensor> convolve_backward(const Tensor& d, const Tensor& x, const Tensor& weight) {
  const int64_t padding = weight.size(2) / 2;
  auto grads = at::convolution_backward(d, x, weight, at::OptionalIntArrayRef(), {1, 1}, {padding, padding}, {1, 1},
                                        false, {0, 0}, 1, {true, true, false});
  return {std::get<0>(grads), std::get<1>(grads)};
}

Tensor at_each_pixel(const Tensor& t) { return t.unsqueeze(-1).unsqueeze(-1); }

// x + t in the kind and the layout of a convolution with `weight`.
Tensor add_time(const Tensor& x, const Tensor& t, const Tensor& weight) {
  Tensor xt = at::empty(x.sizes(), weight.options().memory_format(weight.suggest_memory_format()));
  return at::add_out(xt, x, at_each_pixel(t));
}

// A map for the norm, which on CUDA wants it channels first in memory.
Tensor for_norm(const Tensor& like, at::ScalarType kind) {
  return at::empty(like.sizes(), like.options().dtype(kind).memory_format(at::MemoryFormat::Contiguous));
}

// Filters in the kind of their convolutions; no `shortcut` where the width stays.
struct Weights {
  Tensor w1, w2, shortcut, gamma, beta;
};

struct Rest {
  int64_t groups;
  double eps, dropout;

  double scale() const { return 1 / (1 - dropout); }
};

// The input of the second convolution again.
Tensor dropped(const Tensor& c1, const Tensor& mask, double scale) {
  const Tensor a = at::silu(c1);
  return mask.defined() ? at::native_dropout_backward(a, mask, scale) : a;
}

struct Computed {
  // `x` in the kind of the shortcut's convolution, if there is one; `sum`, the norm's input, in the kind of x.
  Tensor out, xt, mask, c1, c2, x, sum, mean, rstd;
};

// Without `keeps`, maps are overwritten.
Computed compute(const Tensor& x, const Tensor& t, const Weights& w, const Tensor& skip, const Rest& rest, bool keeps) {
  Computed done;
  const auto swish = [&](Tensor& c) { return keeps ? at::silu(c) : at::silu_(c); };
  done.xt = add_time(x, t, w.w1);
  done.c1 = convolve(done.xt, w.w1);
  if (!keeps) done.xt.reset();
  Tensor a = swish(done.c1);
  if (rest.dropout > 0) std::tie(a, done.mask) = at::native_dropout(a, rest.dropout, true);
  if (!keeps) done.c1.reset();
  done.c2 = convolve(a, w.w2);
  a.reset();
  if (w.shortcut.defined()) done.x = x.to(w.w1.scalar_type());
  const Tensor r = done.x.defined() ? convolve(done.x, w.shortcut) : x;
  if (!keeps) done.x.reset();
  done.sum = for_norm(done.c2, x.scalar_type());
  if (at::promote_types(done.c2.scalar_type(), r.scalar_type()) == x.scalar_type()) {
    at::add_out(done.sum, swish(done.c2), r);
  } else {
    // Two maps of fewer digits would be added in these.
    done.sum.copy_(r).add_(swish(done.c2));
  }
  if (!keeps) done.c2.reset();
  const Tensor sum = done.sum.to(at::kFloat);
  if (!keeps) done.sum.reset();
  const int64_t pixels = sum.size(2) * sum.size(3);
  std::tie(done.out, done.mean, done.rstd) =
      at::native_group_norm(sum, w.gamma, w.beta, sum.size(0), sum.size(1), pixels, rest.groups, rest.eps);
  if (skip.defined()) done.out.add_(skip);
  return done;
}

// The norm's input again; `r` is undefined for x itself.
Tensor sum_again(const Tensor& xt, const Tensor& t, const Tensor& c2, const Tensor& r) {
  Tensor sum = for_norm(c2, at::kFloat);
  if (r.defined()) {
    sum.copy_(r);
  } else {
    at::sub_out(sum, xt, at_each_pixel(t));
  }
  return sum.add_(at::silu(c2));
}

// Weights as convolutions take them: under autocast in its kind, unless they come in it.
Weights cast(const Weights& w, at::ScalarType kind) {
  return {w.w1.to(kind), w.w2.to(kind), w.shortcut.defined() ? w.shortcut.to(kind) : w.shortcut, w.gamma.to(at::kFloat),
          w.beta.to(at::kFloat)};
}

at::ScalarType kind_for(const Tensor& x) {
  const auto device = x.device().type();
  return at::autocast::is_autocast_enabled(device) ? at::autocast::get_autocast_dtype(device) : x.scalar_type();
}

class ComposedBlock : public torch::autograd::Function<ComposedBlock> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& t, const Tensor& w1, const Tensor& w2,
                        const std::optional<Tensor>& shortcut, const Tensor& gamma, const Tensor& beta,
                        const std::optional<Tensor>& skip, int64_t groups, double eps, double dropout,
                        bool checkpointed) {
    const Weights w = cast({w1, w2, shortcut.value_or(Tensor()), gamma, beta}, kind_for(x));
    const c10::impl::ExcludeDispatchKeyGuard cast_already(c10::autocast_dispatch_keyset);
    const Rest rest{groups, eps, dropout};
    Computed done = compute(x, t, w, skip.value_or(Tensor()), rest, true);
    // The sum is cheap to compute again only where x is wide and its own residual.
    if (x.scalar_type() != done.xt.scalar_type() && !shortcut) done.sum.reset();
    if (checkpointed) done.c1 = done.c2 = done.x = done.sum = Tensor();
    ctx->save_for_backward({done.xt, t, w.w1, w.w2, w.shortcut, w.gamma, done.mean, done.rstd, done.mask, done.c1,
                            done.c2, done.x, done.sum});
    ctx->saved_data["kind"] = static_cast<int64_t>(x.scalar_type());
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["scale"] = rest.scale();
    ctx->saved_data["skips"] = skip.has_value();
    return done.out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list given) {
    const auto kept = ctx->get_saved_variables();
    const Tensor &xt = kept[0], &t = kept[1], &w1 = kept[2], &w2 = kept[3], &shortcut = kept[4], &gamma = kept[5],
                 &mean = kept[6], &rstd = kept[7], &mask = kept[8];
    Tensor c1 = kept[9], c2 = kept[10];
    const double scale = ctx->saved_data["scale"].toDouble();
    if (!c1.defined()) {
      c1 = convolve(xt, w1);
      c2 = convolve(dropped(c1, mask, scale), w2);
    }
    // Maps are freed right after use: they add to everything that is kept.
    Tensor x = kept[11], sum = kept[12];
    if (shortcut.defined() && !x.defined()) {
      x = at::empty_like(xt);
      at::sub_out(x, xt, at_each_pixel(t));
    }
    sum = sum.defined() ? sum.to(at::kFloat) : sum_again(xt, t, c2, shortcut.defined() ? convolve(x, shortcut) : x);
    auto [dsum, dgamma, dbeta] = at::native_group_norm_backward(
        given[0].contiguous(), sum, mean, rstd, gamma, sum.size(0), sum.size(1), sum.size(2) * sum.size(3),
        ctx->saved_data["groups"].toInt(), {true, true, true});
    sum.reset();
    Tensor d2 = at::empty_like(c2);
    at::silu_backward_out(d2, dsum, c2);
    c2.reset();
    auto [d1, dw2] = convolve_backward(d2, dropped(c1, mask, scale), w2);
    d2.reset();
    if (mask.defined()) d1 = at::native_dropout_backward(d1, mask, scale);
    at::silu_backward_out(d1, d1, c1);
    c1.reset();
    auto [dxt, dw1] = convolve_backward(d1, xt, w1);
    d1.reset();
    Tensor dx = std::move(dsum), dw_shortcut;
    if (shortcut.defined()) {
      const Tensor dr = std::exchange(dx, Tensor()).to(xt.scalar_type());
      std::tie(dx, dw_shortcut) = convolve_backward(dr, x, shortcut);
      dx = dx.to(at::kFloat);
    }
    const auto kind = static_cast<at::ScalarType>(ctx->saved_data["kind"].toInt());
    if (kind == dx.scalar_type()) {
      dx.add_(dxt);
    } else {
      const Tensor wide = std::exchange(dx, at::empty_like(dxt));
      at::add_out(dx, wide, dxt);
    }
    const Tensor dt = at::sum(dxt, {2, 3});
    const Tensor dskip = ctx->saved_data["skips"].toBool() ? given[0] : Tensor();
    return {dx, dt, dw1, dw2, dw_shortcut, dgamma, dbeta, dskip, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace
}  // namespace ddpm

extern "C" {

// One residual block; `shortcut` and `skip` may be null. See src/native/fused.rs.
int ddpm_composed_block(at::Tensor* x, at::Tensor* t, at::Tensor* w1, at::Tensor* w2, at::Tensor* shortcut,
                        at::Tensor* gamma, at::Tensor* beta, at::Tensor* skip, int64_t groups, double eps,
                        double dropout, int checkpointed, at::Tensor** out) {
  return ddpm::guarded([&] {
    using Maybe = std::optional<at::Tensor>;
    const at::Tensor first = ddpm::cast_weight(*w1), second = ddpm::cast_weight(*w2);
    const Maybe narrow = shortcut ? Maybe(ddpm::cast_weight(*shortcut)) : std::nullopt;
    const Maybe more = skip ? Maybe(*skip) : std::nullopt;
    if (at::GradMode::is_enabled()) {
      *out = new at::Tensor(ddpm::ComposedBlock::apply(*x, *t, first, second, narrow, *gamma, *beta, more, groups, eps,
                                                       dropout, checkpointed != 0));
      return;
    }
    const at::Tensor none;
    const ddpm::Weights w = ddpm::cast({first, second, narrow.value_or(none), *gamma, *beta}, ddpm::kind_for(*x));
    const c10::impl::ExcludeDispatchKeyGuard cast_already(c10::autocast_dispatch_keyset);
    auto done = ddpm::compute(*x, *t, w, more.value_or(none), {groups, eps, dropout}, false);
    *out = new at::Tensor(std::move(done.out));
  });
}

}  // extern "C"
