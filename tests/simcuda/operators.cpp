// Every operator that CUDA has a kernel for (ops.inc), by the CPU's kernel on CPU tensors over the device's memory. All
// else, such as decompositions, autograd and autocast's casts, is libtorch's own.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <cstring>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>

#include "call.h"
#include "counts.h"
#include "generator.h"
#include "kernels.h"

namespace simcuda {
namespace {

using at::Tensor;
using c10::IValue;

struct Operator {
  const char* name;
  bool by_iterator;  // TensorIterator compares devices, and takes a CPU tensor of no dimensions as a number
  bool has_cpu;      // the CPU has a kernel too
};

const Operator all_operators[] = {
#include "ops.inc"
};

const Operator* find(const std::string& name) {
  static const auto* by_name = [] {
    auto* map = new std::unordered_map<std::string, const Operator*>;
    for (const auto& op : all_operators) (*map)[op.name] = &op;
    return map;
  }();
  auto found = by_name->find(name);
  return found == by_name->end() ? nullptr : found->second;
}

// Operators that wait because the size of their result, or what they return to the host, is known on the device alone.
const std::set<std::string> waits_for_a_size = {
    "aten::nonzero",       "aten::nonzero.out",  "aten::masked_select",      "aten::masked_select.out",
    "aten::_unique2",      "aten::unique_dim",   "aten::unique_consecutive", "aten::unique_dim_consecutive",
    "aten::equal",         "aten::bincount",     "aten::histc",              "aten::repeat_interleave.Tensor",
    "aten::_linalg_check_errors"};

// Operators whose CUDA kernel refuses to run with deterministic algorithms.
const std::set<std::string> refused_when_deterministic = {"aten::upsample_bilinear2d_backward",
                                                          "aten::upsample_bilinear2d_backward.grad_input",
                                                          "aten::upsample_linear1d_backward.grad_input",
                                                          "aten::upsample_bicubic2d_backward.grad_input",
                                                          "aten::_adaptive_avg_pool2d_backward",
                                                          "aten::adaptive_max_pool2d_backward.grad_input",
                                                          "aten::max_pool2d_with_indices_backward",
                                                          "aten::max_pool2d_with_indices_backward.grad_input",
                                                          "aten::reflection_pad2d_backward",
                                                          "aten::replication_pad2d_backward",
                                                          "aten::grid_sampler_2d_backward",
                                                          "aten::histc",
                                                          "aten::kthvalue.values",
                                                          "aten::median.dim_values",
                                                          "aten::nll_loss2d_forward",
                                                          "aten::bincount",
                                                          "aten::put_",
                                                          "aten::cumsum.out"};

// Operators that run nothing on a device.
const std::set<std::string> views = {"aten::view",         "aten::as_strided",         "aten::_reshape_alias",
                                     "aten::unfold",       "aten::view_as_real",       "aten::view_as_complex",
                                     "aten::set_",         "aten::set_.source_Tensor", "aten::set_.source_Storage"};

bool takes_host_indices(const std::string& name) {
  for (const char* start : {"aten::index.Tensor", "aten::_index_put_impl_", "aten::index_put"}) {
    if (name.compare(0, std::strlen(start), start) == 0) return true;
  }
  return false;
}

template <typename F>
void each_tensor(const IValue& value, F&& body) {
  if (value.isTensor()) {
    body(value.toTensor());
  } else if (value.isList()) {
    for (const IValue& element : value.toListRef()) {
      if (element.isTensor()) body(element.toTensor());
    }
  }
}

// As the generated wrappers and TensorIterator check.
void check_devices(const std::string& name, at::ArrayRef<IValue> arguments) {
  const Operator* op = find(name);
  const bool by_iterator = op && op->by_iterator;
  const bool lists_too = !takes_host_indices(name);
  int numbers = 0;
  for (const IValue& argument : arguments) {
    if (!lists_too && !argument.isTensor()) continue;
    each_tensor(argument, [&](const Tensor& t) {
      if (!t.defined() || t.is_cuda()) return;
      if (by_iterator && t.is_cpu() && t.dim() == 0 && ++numbers <= 1) return;
      TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and ",
                  t.device(), "! (when checking argument in method ", name, ")");
    });
  }
}

// Returns true if the host waits.
bool count_waits(const std::string& name, at::ArrayRef<IValue> arguments) {
  bool waits = false;
  auto note = [&](What what) {
    count(what, name.c_str());
    waits = true;
  };
  if (waits_for_a_size.count(name)) note(data_dependent);
  if (name == "aten::_local_scalar_dense") note(item);
  if (!takes_host_indices(name)) return waits;
  for (const IValue& argument : arguments) {
    if (argument.isTensor()) continue;
    each_tensor(argument, [&](const Tensor& t) {
      if (!t.defined()) return;
      if (t.is_cpu()) note(host_index);
      if (t.scalar_type() == at::kBool || t.scalar_type() == at::kByte) note(data_dependent);
    });
  }
  return waits;
}

// While it lives, the CPU's default generator draws as the device's would, for operators that take none.
class AsDefault {
 public:
  AsDefault() {
    std::lock_guard<std::mutex> lock(cpu_.mutex());
    kept_ = cpu_.unsafeGetGeneratorImpl()->get_state();
    cpu_.unsafeGetGeneratorImpl()->set_state(*ours_.unsafeGetGeneratorImpl()->get_state());
  }
  ~AsDefault() {
    std::lock_guard<std::mutex> lock(cpu_.mutex());
    ours_.unsafeGetGeneratorImpl()->set_state(*cpu_.unsafeGetGeneratorImpl()->get_state());
    cpu_.unsafeGetGeneratorImpl()->set_state(*kept_);
  }

 private:
  at::Generator cpu_ = at::detail::getDefaultCPUGenerator(), ours_ = on_cpu(default_generator());
  c10::intrusive_ptr<c10::TensorImpl> kept_;
};

// An argument of the device as one of the CPU.
IValue to_cpu(Call& call, const IValue& value) {
  if (value.isGenerator() && value.toGenerator().device().is_cuda()) return on_cpu(value.toGenerator());
  if (value.isDevice() && value.toDevice().is_cuda()) return c10::Device(at::kCPU);
  if (value.isTensor()) return call.alias(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& t : value.toTensorList()) list.push_back(call.alias(t));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const std::optional<Tensor>& t : value.toOptionalTensorList()) {
      list.push_back(t ? std::make_optional(call.alias(*t)) : t);
    }
    return list;
  }
  return value;
}

IValue from_cpu(Call& call, const IValue& value) {
  if (value.isTensor()) return call.back(value.toTensor());
  if (!value.isTensorList()) return value;
  c10::List<Tensor> list;
  for (const Tensor& t : value.toTensorList()) list.push_back(call.back(t));
  return list;
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  std::string name = schema.name();
  if (!schema.overload_name().empty()) name += "." + schema.overload_name();
  const bool runs = views.count(name) == 0;
  if (runs) count(kernels, name.c_str());
  const auto arguments = torch::jit::last(*stack, schema.arguments().size());
  check_devices(name, arguments);
  const bool waits = count_waits(name, arguments);
  if (at::globalContext().deterministicAlgorithms() && refused_when_deterministic.count(name)) {
    at::globalContext().alertNotDeterministic(name);
  }

  Call call(name.c_str());
  const size_t begin = stack->size() - schema.arguments().size();
  bool takes_generator = false;
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    const auto& argument = schema.arguments()[i];
    IValue& value = (*stack)[begin + i];
    const auto* alias = argument.alias_info();
    each_tensor(value, [&](const Tensor& t) { call.touch(t, alias && alias->isWrite()); });
    const auto type = argument.type()->str();
    const bool is_generator = type == "Generator?" || type == "Generator";
    takes_generator |= is_generator;
    value = is_generator && value.isNone() ? IValue(on_cpu(default_generator())) : to_cpu(call, value);
  }
  {
    Below below;
    std::optional<AsDefault> as_default;
    if (!takes_generator && op.hasTag(at::Tag::nondeterministic_seeded)) as_default.emplace();
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  call.settle();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
    (*stack)[i] = from_cpu(call, (*stack)[i]);
  }
  if (runs) call.done();
  if (waits) Order::get().host_waits(Order::get().snapshot(current_stream));
}

void no_kernel(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "simcuda: no kernel for ", op.schema().operator_name(),
                              " on the simulated device (a real CUDA device has one)");
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  for (const auto& op : all_operators) {
    if (is_written_by_hand(op.name)) continue;
    library.impl(op.name, op.has_cpu ? torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>()
                                     : torch::CppFunction::makeFromBoxedFunction<&no_kernel>());
  }
  // Composites in libtorch, over cuDNN's kernels; here they are one operator each.
  for (const char* name : {"aten::convolution", "aten::convolution_backward"}) {
    if (!find(name)) library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  }
  register_kernels(library);
}

}  // namespace
}  // namespace simcuda
