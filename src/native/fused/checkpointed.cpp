// The checkpointed residual block of Keras-DDPM's U-Net as separate operations, for any device and with autocast:
// only x is kept, and the backward pass recomputes the block.

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <mutex>
#include <optional>
#include <utility>

#include "../guard.h"
#include "../weights.h"
#include "conv.h"

namespace ddpm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Within its scope, operations on `device` are cast to `kind`, or not at all. Weights that come in f32 are cast anew each
// time: autocast's cache would hand the pass that recomputes what belongs to another graph.
class Casting {
 public:
  Casting(at::DeviceType device, bool on, at::ScalarType kind)
      : device_(device),
        on_(at::autocast::is_autocast_enabled(device)),
        kind_(at::autocast::get_autocast_dtype(device)),
        keeps_(at::autocast::is_autocast_cache_enabled()) {
    set(on, kind, false);
  }
  ~Casting() { set(on_, kind_, keeps_); }
  Casting(const Casting&) = delete;
  Casting& operator=(const Casting&) = delete;

 private:
  void set(bool on, at::ScalarType kind, bool keeps) {
    at::autocast::set_autocast_enabled(device_, on);
    at::autocast::set_autocast_dtype(device_, kind);
    at::autocast::set_autocast_cache_enabled(keeps);
  }

  at::DeviceType device_;
  bool on_;
  at::ScalarType kind_;
  bool keeps_;
};

Tensor state_of(at::Generator generator) {
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_state(at::Generator generator, const Tensor& state) {
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

// Within its scope, libtorch's generator continues from `state`; afterwards its own state is restored.
class Draws {
 public:
  Draws(at::Generator generator, const Tensor& state)
      : generator_(std::move(generator)), before_(state_of(generator_)) {
    set_state(generator_, state);
  }
  ~Draws() { set_state(generator_, before_); }
  Draws(const Draws&) = delete;
  Draws& operator=(const Draws&) = delete;

 private:
  at::Generator generator_;
  Tensor before_;
};

struct PlainRest {
  int64_t groups;
  double eps, dropout;
};

// Same as `ResidualBlock::plain` of src/model/block.rs in training; `in` is x, t, w1, w2, gamma, beta and, if the
// width changes, the weight of the shortcut.
Tensor plain(at::TensorList in, const PlainRest& rest) {
  const Tensor &x = in[0], &t = in[1], &w1 = in[2], &w2 = in[3], &gamma = in[4], &beta = in[5];
  Tensor h = at::silu(conv3x3(x + t.unsqueeze(-1).unsqueeze(-1), w1, {}));
  if (rest.dropout > 0) h = at::dropout(h, rest.dropout, true);
  h = at::silu(conv3x3(h, w2, {})).to(x.scalar_type());
  h += in.size() > 6 ? at::conv2d(x, in[6]) : x;
  return at::group_norm(h.to(at::kFloat), rest.groups, gamma, beta, rest.eps, true);
}

class CheckpointedBlock : public torch::autograd::Function<CheckpointedBlock> {
 public:
  // A TensorList, as autograd treats the tensors of a vector as constants.
  static Tensor forward(AutogradContext* ctx, at::TensorList in, int64_t groups, double eps, double dropout) {
    const auto device = in[0].device();
    const bool casts = at::autocast::is_autocast_enabled(device.type());
    const auto kind = at::autocast::get_autocast_dtype(device.type());
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["dropout"] = dropout;
    ctx->saved_data["casts"] = casts;
    ctx->saved_data["kind"] = static_cast<int64_t>(kind);
    if (dropout > 0) ctx->saved_data["draws"] = state_of(at::globalContext().defaultGenerator(device));
    ctx->save_for_backward(in.vec());
    const Casting casting(device.type(), casts, kind);
    return plain(in, {groups, eps, dropout});
  }

  static variable_list backward(AutogradContext* ctx, variable_list given) {
    variable_list in, wanted;
    for (const Tensor& kept : ctx->get_saved_variables()) {
      in.push_back(kept.detach().requires_grad_(kept.requires_grad()));
      if (kept.requires_grad()) wanted.push_back(in.back());
    }
    const variable_list found = torch::autograd::grad({again(ctx, in)}, wanted, {given[0]});
    variable_list grads;
    auto next = found.begin();
    for (const Tensor& tensor : in) grads.push_back(tensor.requires_grad() ? *next++ : Tensor());
    // The numbers passed to `forward` have none.
    grads.resize(in.size() + 3);
    return grads;
  }

 private:
  // The result of `forward`, now with gradients.
  static Tensor again(AutogradContext* ctx, const variable_list& in) {
    auto& data = ctx->saved_data;
    const PlainRest rest{data["groups"].toInt(), data["eps"].toDouble(), data["dropout"].toDouble()};
    const auto device = in[0].device();
    const at::AutoGradMode with_gradients(true);
    const Casting casting(device.type(), data["casts"].toBool(), static_cast<at::ScalarType>(data["kind"].toInt()));
    std::optional<Draws> draws;
    if (rest.dropout > 0) draws.emplace(at::globalContext().defaultGenerator(device), data["draws"].toTensor());
    return plain(in, rest);
  }
};

}  // namespace
}  // namespace ddpm

extern "C" {

// One residual block in training; `shortcut` may be null. See src/native/fused.rs.
int ddpm_checkpointed_block(at::Tensor* x, at::Tensor* t, at::Tensor* w1, at::Tensor* w2, at::Tensor* shortcut,
                            at::Tensor* gamma, at::Tensor* beta, int64_t groups, double eps, double dropout,
                            at::Tensor** out) {
  return ddpm::guarded([&] {
    ddpm::variable_list in{*x, *t, ddpm::cast_weight(*w1), ddpm::cast_weight(*w2), *gamma, *beta};
    if (shortcut) in.push_back(ddpm::cast_weight(*shortcut));
    *out = new at::Tensor(ddpm::CheckpointedBlock::apply(at::TensorList(in), groups, eps, dropout));
  });
}

}  // extern "C"
