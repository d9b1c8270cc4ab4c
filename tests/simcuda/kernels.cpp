#include "kernels.h"

#include <ATen/EmptyTensor.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/set_native.h>

#include <array>
#include <limits>
#include <optional>
#include <set>
#include <tuple>

#include "call.h"
#include "counts.h"
#include "memory.h"

namespace simcuda {
namespace {

using at::Tensor;
using c10::Device;
using OptionalTensor = std::optional<Tensor>;

const c10::DispatchKeySet cuda(c10::DispatchKey::CUDA);

void check_options(std::optional<Device> device, std::optional<bool> pinned) {
  TORCH_CHECK(!pinned.value_or(false), "Only dense CPU tensors can be pinned");
  TORCH_CHECK(!device || device->index() <= 0, "CUDA error: invalid device ordinal");
}

at::ScalarType kind_or_default(std::optional<at::ScalarType> kind) {
  return kind.value_or(at::get_default_dtype_as_scalartype());
}

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> kind, std::optional<at::Layout>,
             std::optional<Device> device, std::optional<bool> pinned, std::optional<at::MemoryFormat> format) {
  check_options(device, pinned);
  return at::detail::empty_generic(size, &Memory::get(), cuda, kind_or_default(kind), format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> kind,
                     std::optional<at::Layout>, std::optional<Device> device, std::optional<bool> pinned) {
  check_options(device, pinned);
  return at::detail::empty_strided_generic(size, stride, &Memory::get(), cuda, kind_or_default(kind));
}

// What a copy is to the host, and whether the host waits for it. CUDA lets the host go on for sure only if the memory is
// pinned: from other memory its driver may wait for the stream before it takes the data into a buffer of its own.
std::pair<What, bool> kind_of_copy(const Tensor& to, const Tensor& from, bool non_blocking) {
  if (to.is_cuda() && from.is_cuda()) return {kernels, false};
  const bool to_device = to.is_cuda();
  const bool waits = !non_blocking || !Pinned::get().owns((to_device ? from : to).storage().data());
  if (to_device) return {waits ? h2d : h2d_async, waits};
  return {waits ? d2h : d2h_async, waits};
}

// Host memory holds NaN until the host has waited for the copy.
void copy_later(const Call& call, Tensor to, Tensor values) {
  if (to.is_floating_point()) to.fill_(std::numeric_limits<double>::quiet_NaN());
  call.done();
  Order::get().when_host_has_waited(current_stream, [to, values]() mutable {
    Below below;
    to.copy_(values);
  });
}

Tensor& copy_(Tensor& self, const Tensor& src, bool non_blocking) {
  if (self.numel() == 0 || self.is_same(src)) return self;
  const auto [what, waits] = kind_of_copy(self, src, non_blocking);
  count(what, "aten::copy_");
  if (what == kernels && self.scalar_type() != src.scalar_type()) count(casts, "aten::copy_");
  Call call("aten::copy_");
  call.touch(src, false);
  call.touch(self, true);
  Below below;
  const Tensor from = call.alias(src);
  Tensor to = call.alias(self);
  if (what == d2h_async) {
    copy_later(call, to, from.clone());
    return self;
  }
  to.copy_(from);
  call.done();
  if (waits) Order::get().host_waits(Order::get().snapshot(current_stream));
  return self;
}

Tensor& set_storage(Tensor& self, c10::Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  return at::native::set_storage_cpu_(self, std::move(source), offset, size, stride);
}

// Memory that is freed while another stream may use it is told as a race, whether or not it was recorded.
void record_stream(Tensor&, c10::Stream) {}

// As a CUDA device chooses for f32; in bf16 it would take the flash kernel, which keeps the same.
int64_t choose_attention(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& mask, double, bool,
                         std::optional<double>, bool) {
  const auto plain = static_cast<int64_t>(at::SDPBackend::math);
  if (mask && mask->defined()) return plain;
  for (const Tensor* t : {&q, &k, &v}) {
    const int64_t multiple = t->scalar_type() == at::kFloat ? 4 : 8;
    if (t->dim() != 4 || t->stride(-1) != 1 || t->size(-1) % multiple != 0) return plain;
  }
  return static_cast<int64_t>(at::SDPBackend::efficient_attention);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                                     const OptionalTensor& bias, bool, double dropout, bool causal,
                                                     std::optional<double> scale) {
  const char* name = "aten::_scaled_dot_product_efficient_attention";
  count(kernels, name);
  Call call(name);
  for (const Tensor* t : {&q, &k, &v}) call.touch(*t, false);
  Below below;
  auto [out, sums] = at::_scaled_dot_product_flash_attention_for_cpu(
      call.alias(q), call.alias(k), call.alias(v), dropout, causal,
      bias ? std::make_optional(call.alias(*bias)) : bias, scale);
  // Seed and offset of its dropout.
  Tensor none = at::detail::empty_generic({}, &Memory::get(), cuda, at::kLong, std::nullopt);
  Tensor result = call.back(out), logsumexp = call.back(sums);
  call.done();
  return {result, logsumexp, none, none};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(const Tensor& grad, const Tensor& q, const Tensor& k,
                                                              const Tensor& v, const Tensor& bias, const Tensor& out,
                                                              const Tensor& sums, const Tensor&, const Tensor&,
                                                              double dropout, std::array<bool, 4>, bool causal,
                                                              std::optional<double> scale) {
  const char* name = "aten::_scaled_dot_product_efficient_attention_backward";
  count(kernels, name);
  Call call(name);
  for (const Tensor* t : {&grad, &q, &k, &v, &out, &sums}) call.touch(*t, false);
  Below below;
  auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      call.alias(grad), call.alias(q), call.alias(k), call.alias(v), call.alias(out), call.alias(sums), dropout, causal,
      bias.defined() ? std::make_optional(call.alias(bias)) : std::nullopt, scale);
  Tensor of_q = call.back(dq), of_k = call.back(dk), of_v = call.back(dv);
  call.done();
  return {of_q, of_k, of_v, Tensor()};
}

// With x_hat = x * rstd, the gradient of x is (g - x_hat * mean(g * x_hat)) * rstd.
std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& input, at::IntArrayRef shape,
                                             const Tensor& rstd, const OptionalTensor& weight, std::array<bool, 2>) {
  const char* name = "aten::_fused_rms_norm_backward";
  count(kernels, name);
  const bool has_weight = weight && weight->defined();
  Call call(name);
  for (const Tensor* t : {&grad, &input, &rstd}) call.touch(*t, false);
  if (has_weight) call.touch(*weight, false);
  Below below;
  const Tensor d = call.alias(grad), inverse = call.alias(rstd), x_hat = call.alias(input).mul(inverse);
  std::vector<int64_t> inner, outer;
  const int64_t first_inner = input.dim() - static_cast<int64_t>(shape.size());
  for (int64_t i = 0; i < input.dim(); ++i) (i < first_inner ? outer : inner).push_back(i);
  const Tensor g = has_weight ? d.mul(call.alias(*weight)) : d;
  const Tensor dx = g.sub(x_hat.mul(g.mul(x_hat).mean(inner, /*keepdim=*/true))).mul(inverse);
  const Tensor dw = has_weight ? d.mul(x_hat).sum(outer) : Tensor();
  Tensor of_x = call.back(dx.contiguous()), of_weight = call.back(dw);
  call.done();
  return {of_x, of_weight};
}

const bool attention_is_chosen = [] {
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choose_attention);
  return true;
}();

}  // namespace

bool is_written_by_hand(const std::string& name) {
  static const std::set<std::string> names = {"aten::empty.memory_format",
                                              "aten::empty_strided",
                                              "aten::copy_",
                                              "aten::set_.source_Storage_storage_offset",
                                              "aten::record_stream",
                                              "aten::_scaled_dot_product_efficient_attention",
                                              "aten::_scaled_dot_product_efficient_attention_backward",
                                              "aten::_fused_rms_norm_backward"};
  return names.count(name) != 0;
}

void register_kernels(torch::Library& library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("copy_", &copy_);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("record_stream", &record_stream);
  library.impl("_scaled_dot_product_efficient_attention", &attention);
  library.impl("_scaled_dot_product_efficient_attention_backward", &attention_backward);
  library.impl("_fused_rms_norm_backward", &rms_norm_backward);
}

}  // namespace simcuda
