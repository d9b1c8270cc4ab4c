// Convolutions of stride 1 that keep the image's size: 3x3 ones by Winograd tiles (winograd_conv.h) where that is
// faster, the rest by libtorch.

#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace ddpm {

// For maps of f32 or bf16 on a CPU, channels last in memory, and weights of the same kind. x: [N, Cin, H, W],
// weight: [Cout, Cin, k, k], k odd.
at::Tensor conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

// conv, or silu of it, without gradients: silu is fused with the convolution. For maps in bf16 the weight may be f32,
// converted once for many evaluations (kept_filters.h).
at::Tensor sampled_conv(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool silu);

// Gradients of x and of the weight, from d, that of the result.
at::Tensor conv_of_input(const at::Tensor& d, const at::Tensor& x, const at::Tensor& weight);
at::Tensor conv_of_weight(const at::Tensor& d, const at::Tensor& x, const at::Tensor& weight);

// An autograd operation, for weights of 3x3 taps; falls back to libtorch's convolution for other devices and kinds,
// and under autocast.
at::Tensor conv3x3(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

}  // namespace ddpm
