// A 3x3 convolution of stride 1 that keeps the image's size, and its gradients, by Winograd tiles (winograd.h): f32 on
// a CPU, maps and weights channels last in memory. Results do not depend on the number of threads.

#pragma once

#include <ATen/core/Tensor.h>

namespace ddpm {

// Applied to a sum before it is written.
struct Finish {
  // [Cout]; undefined: none.
  at::Tensor bias;
  bool silu = false;
};

// x: [N, Cin, H, W], weight: [Cout, Cin, 3, 3].
at::Tensor winograd_conv(const at::Tensor& x, const at::Tensor& weight, const Finish& finish);

// Gradient of x, from that of the result.
at::Tensor winograd_conv_of_input(const at::Tensor& d, const at::Tensor& weight);

// Gradient of the weight, from that of the result.
at::Tensor winograd_conv_of_weight(const at::Tensor& d, const at::Tensor& x);

}  // namespace ddpm
