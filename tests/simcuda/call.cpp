#include "call.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>

#include <cstring>

#include "memory.h"

namespace simcuda {
namespace {

using at::Tensor;
using c10::Storage;

Storage storage_of(size_t nbytes, c10::DataPtr data, c10::Allocator* allocator) {
  return Storage(c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), nbytes, std::move(data),
                                                       allocator, /*resizable=*/true));
}

// A tensor of the shape of `t` over this storage.
Tensor like(const Tensor& t, Storage storage, c10::DispatchKey key) {
  Tensor made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), t.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  if (t.is_conj()) impl->_set_conj(true);
  if (t.is_neg()) impl->_set_neg(true);
  return made;
}

// Device memory with these bytes in it.
c10::DataPtr on_device(const c10::Storage& from) {
  c10::DataPtr data = Memory::get().allocate(from.nbytes());
  if (from.nbytes()) std::memcpy(Memory::get().on_host(data.get()), from.data(), from.nbytes());
  return data;
}

}  // namespace

void Call::touch(const Tensor& t, bool writes) {
  if (!t.defined() || !t.is_cuda()) return;
  touched_.emplace_back(t.storage().data(), writes);
  bytes_ += t.nbytes();
}

Storage Call::alias(const Storage& storage) {
  for (auto& [ours, theirs] : storages_) {
    if (ours.unsafeGetStorageImpl() == storage.unsafeGetStorageImpl()) return theirs;
  }
  auto* keep = new Storage(storage);
  c10::DataPtr data(Memory::get().on_host(storage.data()), keep, [](void* k) { delete static_cast<Storage*>(k); },
                    at::kCPU);
  Storage theirs = storage_of(storage.nbytes(), std::move(data), c10::GetAllocator(at::kCPU));
  storages_.emplace_back(storage, theirs);
  return theirs;
}

Tensor Call::alias(const Tensor& t) {
  if (!t.defined() || !t.is_cuda()) return t;
  for (auto& named : tensors_) {
    if (named.original.is_same(t)) return named.alias;
  }
  TORCH_CHECK(t.has_storage() && t.layout() == at::kStrided, "simcuda: only strided tensors");
  Tensor made = like(t, alias(t.storage()), c10::DispatchKey::CPU);
  tensors_.push_back({t, made, made.storage().mutable_data()});
  return made;
}

Tensor Call::back(const Tensor& result) {
  if (!result.defined() || !result.is_cpu()) return result;
  for (auto& named : tensors_) {
    if (named.alias.is_same(result)) return named.original;
  }
  for (auto& [ours, theirs] : storages_) {
    if (theirs.unsafeGetStorageImpl() == result.storage().unsafeGetStorageImpl()) {
      return like(result, ours, c10::DispatchKey::CUDA);
    }
  }
  // oneDNN's tensors have a layout of their own.
  Tensor dense = result.layout() == at::kStrided ? result : result.to_dense();
  Storage ours = storage_of(dense.storage().nbytes(), on_device(dense.storage()), &Memory::get());
  storages_.emplace_back(ours, dense.storage());
  touched_.emplace_back(ours.data(), true);
  bytes_ += dense.nbytes();
  return like(dense, ours, c10::DispatchKey::CUDA);
}

void Call::settle() {
  for (auto& [original, alias, data] : tensors_) {
    const Storage& storage = original.storage();
    const Storage& changed = alias.storage();
    if (changed.data() != data || changed.nbytes() != storage.nbytes()) {
      auto* impl = storage.unsafeGetStorageImpl();
      impl->set_data_ptr_noswap(on_device(changed));
      impl->set_nbytes(changed.nbytes());
    }
    if (original.sizes() != alias.sizes() || original.strides() != alias.strides() ||
        original.storage_offset() != alias.storage_offset()) {
      original.unsafeGetTensorImpl()->set_sizes_and_strides(alias.sizes(), alias.strides(), alias.storage_offset());
    }
  }
}

}  // namespace simcuda
