#include "weights.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <unordered_map>
#include <utility>

#include "fused/kept_filters.h"
#include "group.h"
#include "guard.h"

namespace ddpm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// All weights of a network, which lie in one tensor, in bf16.
struct FlatCopy {
  Tensor flat, copy;
  int64_t version;
  // What the present pass was given. One view a weight, as autocast makes one copy: gradients of several uses are then
  // added in bf16.
  std::unordered_map<const c10::TensorImpl*, Tensor> given;

  bool holds(const Tensor& weight) const {
    return weight.has_storage() && weight.storage().is_alias_of(flat.storage());
  }

  // The place of `weight` in the copy.
  Tensor view(const Tensor& weight) const {
    TORCH_CHECK(flat._version() == version, "the weights have changed since they were copied");
    // For autograd it is no view.
    const at::AutoDispatchBelowADInplaceOrView below;
    return copy.as_strided(weight.sizes(), weight.strides(), weight.storage_offset());
  }
};

thread_local std::unique_ptr<FlatCopy> flat_copy;

// The copy of a weight. The backward pass adds the gradient in bf16 to that in f32 at once, without a gradient in f32
// of its own.
class InCopy : public torch::autograd::Function<InCopy> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& weight, FlatCopy* from) {
    ctx->saved_data["grad"] = weight.grad();
    ctx->saved_data["weight"] = reinterpret_cast<int64_t>(weight.unsafeGetTensorImpl());
    return from->view(weight);
  }

  static variable_list backward(AutogradContext* ctx, variable_list given) {
    ctx->saved_data["grad"].toTensor().add_(given[0]);
    // Autograd does not see it come.
    gradient_arrived(reinterpret_cast<const c10::TensorImpl*>(ctx->saved_data["weight"].toInt()));
    return {Tensor(), Tensor()};
  }
};

}  // namespace

Tensor cast_weight(const Tensor& weight) {
  if (!weight.is_cuda() || weight.scalar_type() != at::kFloat || !at::autocast::is_autocast_enabled(at::kCUDA)) {
    return weight;
  }
  const bool trains = at::GradMode::is_enabled() && weight.requires_grad();
  if (flat_copy && flat_copy->holds(weight)) {
    if (!trains) return flat_copy->view(weight);
    // Without a place for it, the gradient takes autograd's way.
    if (!weight.is_leaf() || !weight.grad().defined()) return weight;
    Tensor& given = flat_copy->given[weight.unsafeGetTensorImpl()];
    if (!given.defined()) given = InCopy::apply(weight, flat_copy.get());
    return given;
  }
  return trains || !KeptFilters::in_use ? weight : KeptFilters::in_use->cast(weight);
}

void forget_given_weights() {
  if (flat_copy) flat_copy->given.clear();
}

}  // namespace ddpm

extern "C" {

// Begins the use of a copy of `flat`, [P] f32 on CUDA, by this thread; `ddpm_flat_copy_end` ends it. Not nested.
int ddpm_flat_copy_begin(at::Tensor* flat) {
  return ddpm::guarded([&] {
    TORCH_CHECK(!ddpm::flat_copy, "this thread has a copy of weights already");
    TORCH_CHECK(flat->dim() == 1 && flat->is_contiguous() && flat->storage_offset() == 0, "weights are not flat");
    const at::NoGradGuard no_grad;
    ddpm::flat_copy.reset(new ddpm::FlatCopy{*flat, flat->to(at::kBFloat16), flat->_version(), {}});
  });
}

void ddpm_flat_copy_end() { ddpm::flat_copy.reset(); }

int ddpm_cast_weight(at::Tensor* weight, at::Tensor** out) {
  return ddpm::guarded([&] { *out = new at::Tensor(ddpm::cast_weight(*weight)); });
}

}  // extern "C"
