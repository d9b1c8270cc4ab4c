#include "kept_filters.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>

#include <utility>

namespace ddpm {
namespace {

using at::Tensor;

Tensor ordered(const Tensor& filters, const Tensor& x) {
  using Call = Tensor(const Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t,
                      at::OptionalIntArrayRef);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_reorder_convolution_weight", "")
                             .typed<Call>();
  const int64_t padding = filters.size(2) / 2;
  return op.call(filters, {padding, padding}, {1, 1}, {1, 1}, 1, x.sizes());
}

}  // namespace

thread_local KeptFilters* KeptFilters::in_use = nullptr;

Tensor KeptFilters::of(const Tensor& weight, const Tensor& x) {
  Entry& entry = entries_[weight.unsafeGetTensorImpl()];
  if (!entry.filters.defined() || x.sizes() != entry.maps) {
    entry = {weight, x.sizes().vec(), ordered(weight.to(at::kBFloat16), x)};
  }
  return entry.filters;
}

Tensor KeptFilters::cast(const Tensor& weight) {
  Entry& entry = casts_[weight.unsafeGetTensorImpl()];
  if (!entry.filters.defined()) {
    // As autocast's cache does: a product with a weight that requires no gradient is laid out in another way.
    const at::AutoGradMode with_gradients(true);
    entry = {weight, {}, weight.to(at::kBFloat16)};
  }
  return entry.filters;
}

}  // namespace ddpm

extern "C" {

ddpm::KeptFilters* ddpm_kept_filters_new() { return new ddpm::KeptFilters; }

void ddpm_kept_filters_free(ddpm::KeptFilters* kept) { delete kept; }

// Sets the cache that convolutions on this thread use, or null for none. Returns the previous one.
ddpm::KeptFilters* ddpm_kept_filters_use(ddpm::KeptFilters* kept) {
  return std::exchange(ddpm::KeptFilters::in_use, kept);
}

}  // extern "C"
