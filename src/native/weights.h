// Weights in bf16 on CUDA that are cast once for many uses.

#pragma once

#include <ATen/core/Tensor.h>

namespace ddpm {

// What autocast on CUDA makes of a weight or bias, f32, of a convolution or a linear map: in bf16 where this thread has
// a copy for it, else unchanged, and autocast casts it at its use. The gradient of the copy goes to that of `weight`.
at::Tensor cast_weight(const at::Tensor& weight);

// At the end of a pass over the network: forgets what the pass was given.
void forget_given_weights();

}  // namespace ddpm
