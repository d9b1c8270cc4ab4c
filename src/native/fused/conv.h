// Convolutions of stride 1 that keep the image's size: 3x3 ones by tiles (winograd_conv.h) where that takes less
// time, all others libtorch's.

#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace ddpm {

// For maps of f32 or bf16 on a CPU, channels last in memory, and weights of the same kind. x: [N, Cin, H, W],
// weight: [Cout, Cin, k, k], k odd.
at::Tensor conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

// conv, or silu of it, where no gradient is wanted: silu is applied to what was just computed, and for maps in bf16 the
// weight is f32, too, and made what it has to be once for many evaluations (kept_filters.h).
at::Tensor sampled_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool silu);

// From d, the gradient of the result, that of x and that of the weight.
at::Tensor conv_of_input(const at::Tensor& d, const at::Tensor& x, const at::Tensor& weight);
at::Tensor conv_of_weight(const at::Tensor& d, const at::Tensor& x, const at::Tensor& weight);

// A step of autograd, for weights of 3x3 taps: also where libtorch's convolution is for other devices and kinds of
// numbers, or autocast's.
at::Tensor conv3x3(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

}  // namespace ddpm
