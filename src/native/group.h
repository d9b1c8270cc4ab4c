// Process groups of c10d, and the gradients of a network in buckets that a group sums while backward goes on.

#pragma once

#include <c10/core/TensorImpl.h>

namespace ddpm {

// Says that the gradient of `weight` is in its place: where autograd does not put it there itself.
void gradient_arrived(const c10::TensorImpl* weight);

}  // namespace ddpm
