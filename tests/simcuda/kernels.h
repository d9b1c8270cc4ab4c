// Operators that are written by hand, because the CPU has no kernel for them or another one.

#pragma once

#include <torch/library.h>

namespace simcuda {

// Registers them under the key CUDA.
void register_kernels(torch::Library& library);

// True if `register_kernels` has this operator.
bool is_written_by_hand(const std::string& name);

}  // namespace simcuda
