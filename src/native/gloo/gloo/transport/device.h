// libtorch's wheel has c10d's headers and not Gloo's. What c10d's name of it: nothing here is used but as a pointer.

#pragma once

namespace gloo::transport {

class Device;

class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = default;
};

}
