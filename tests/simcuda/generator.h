// Random numbers of the device: a CPU generator of its own, so that a seed draws what it draws on a CPU.

#pragma once

#include <ATen/core/Generator.h>

namespace simcuda {

const at::Generator& default_generator();
at::Generator new_generator();

// The CPU generator in one of the device.
at::Generator on_cpu(const at::Generator& generator);

}  // namespace simcuda
