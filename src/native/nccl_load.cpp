// Loading the NCCL part (nccl.cpp), which needs the symbols of libtorch's CUDA half.
//
// Rules as in shim.cpp.

#include <dlfcn.h>

#include <string>

#include "guard.h"

extern "C" {

// Loads the shared object of an open file descriptor for good and looks up its one function. The descriptor must stay
// open: the loader knows the object by this path, and would take another file of the same number for it.
int ddpm_load_nccl_part(int file, void** function) {
  return ddpm::guarded([&] {
    const std::string path = "/proc/self/fd/" + std::to_string(file);
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      std::string why = dlerror();
      // The path says nothing to anyone.
      if (why.rfind(path + ": ", 0) == 0) why.erase(0, path.size() + 2);
      const bool lacks = why.rfind("undefined symbol", 0) == 0;
      TORCH_CHECK(!lacks, "libtorch's CUDA half is built without NCCL, or is not the one of this build (", why, ")");
      TORCH_CHECK(false, "the NCCL part cannot be loaded: ", why);
    }
    *function = dlsym(library, "ddpm_nccl_backend");
    TORCH_CHECK(*function, "the NCCL part has no function: ", dlerror());
  });
}

}  // extern "C"
