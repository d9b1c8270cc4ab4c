// Makes and ends the backend of a group of one rank: group_of_one LIBTORCH_CUDA PART DEVICE. Prints what it is, or the
// error.

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

int main(int, char** arguments) {
  setvbuf(stdout, nullptr, _IONBF, 0);
  dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
  void* part = dlopen(arguments[2], RTLD_NOW | RTLD_LOCAL);
  if (!part) return puts(dlerror()), 1;
  using Function = int(void*, int, int, int, int64_t, void**, char*, size_t);
  auto function = reinterpret_cast<Function*>(dlsym(part, "ddpm_nccl_backend"));

  c10::intrusive_ptr<c10d::Store> store =
      c10::make_intrusive<c10d::PrefixStore>("group", c10::make_intrusive<c10d::HashStore>());
  void* out = nullptr;
  char error[512];
  if (function(&store, 0, 1, atoi(arguments[3]), 5000, &out, error, sizeof error) != 0) return puts(error), 0;

  auto* backend = static_cast<c10::intrusive_ptr<c10d::Backend>*>(out);
  auto& made = **backend;
  printf("%s, rank %d of %d on %s, %d ms, store held %d times\n", made.getBackendName().c_str(), made.getRank(),
         made.getSize(), made.getBoundDeviceId()->str().c_str(),
         static_cast<int>(made.getBackendOptions()->timeout.count()), static_cast<int>(store.use_count()));
  made.shutdown();
  delete backend;
  printf("store held %d times\n", static_cast<int>(store.use_count()));
}
