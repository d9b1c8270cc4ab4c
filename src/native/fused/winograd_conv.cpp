// Winograd convolutions. oneDNN, and so libtorch, has had none for x86 since its version 3: it has only the direct
// sum, which took most of a training step. Matrix products are MKL's.
//
// Tiles are processed in groups, so that their data stay in a cache between the transform, the 16 products and the
// inverse transform.

#include "winograd_conv.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "maps.h"
#include "winograd.h"

namespace ddpm {
namespace {

using at::Tensor;

// Tiles multiplied together: by one thread, and by all threads for the gradient of a weight.
constexpr int64_t kTogether = 64;
constexpr int64_t kTogetherOfWeight = 128;

// Positions of the tiles of 2x2 outputs in a map.
struct Grid {
  int64_t images, height, width, down, across;

  explicit Grid(const Tensor& map)
      : images(map.size(0)),
        height(map.size(2)),
        width(map.size(3)),
        down((height + 1) / 2),
        across((width + 1) / 2) {}

  int64_t tiles() const { return images * down * across; }

  // Pointers to the size x size pixels of a tile, starting `border` above and left of its outputs; `outside` for
  // pixels beyond the image.
  template <int size, typename T>
  void pixels(int64_t tile, int64_t border, T* map, int64_t channels, T* outside, T** out) const {
    const int64_t image = tile / (down * across);
    const int64_t top = 2 * (tile / across % down) - border, left = 2 * (tile % across) - border;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j < size; ++j) {
        const int64_t y = top + i, x = left + j;
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        *out++ = inside ? map + ((image * height + y) * width + x) * channels : outside;
      }
    }
  }
};

// Numbers in rows: [16, rows, channels].
Tensor numbers(const Tensor& like, int64_t rows, int64_t channels) {
  return at::empty({16, rows, channels}, like.options().memory_format(c10::nullopt));
}

// [16, Cout, Cin] of the taps in reverse order, which turn the gradient of the result into that of x.
Tensor filters_back(const Tensor& weight) {
  const Tensor taps = dense(weight);
  const int64_t outs = weight.size(0), ins = weight.size(1);
  Tensor u = numbers(weight, outs, ins);
  const float* from = taps.const_data_ptr<float>();
  float* to = u.mutable_data_ptr<float>();
  at::parallel_for(0, outs, 8, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const float* nine[9];
      for (int64_t k = 0; k < 9; ++k) nine[k] = from + (o * 9 + 8 - k) * ins;
      winograd_filter(nine, to + o * ins, outs * ins, ins);
    }
  });
  return u;
}

// [16, Cin, Cout]: with a transposed view instead, the products are a fifth slower.
Tensor filters(const Tensor& weight) {
  // Rows transposed at once: a cache line.
  constexpr int64_t kLine = 16;
  const Tensor taps = dense(weight);
  const int64_t outs = weight.size(0), ins = weight.size(1);
  Tensor u = numbers(weight, ins, outs);
  const float* from = taps.const_data_ptr<float>();
  float* to = u.mutable_data_ptr<float>();
  at::parallel_for(0, (ins + kLine - 1) / kLine, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> turned(static_cast<size_t>(kLine * 9 * outs));
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part * kLine, count = std::min(kLine, ins - first);
      for (int64_t row = 0; row < outs * 9; ++row) {
        float* column = turned.data() + row % 9 * outs + row / 9;
        for (int64_t i = 0; i < count; ++i) column[i * 9 * outs] = from[row * ins + first + i];
      }
      for (int64_t i = 0; i < count; ++i) {
        const float* nine[9];
        for (int64_t k = 0; k < 9; ++k) nine[k] = turned.data() + (i * 9 + k) * outs;
        winograd_filter(nine, to + (first + i) * outs, ins * outs, outs);
      }
    }
  });
  return u;
}

// u: [16, channels of x, channels of the result]
Tensor multiply(const Tensor& x, const Tensor& u, const Finish& finish) {
  const Grid grid(x);
  const int64_t ins = u.size(1), outs = u.size(2), tiles = grid.tiles();
  Tensor y = at::empty({grid.images, outs, grid.height, grid.width}, x.options().memory_format(kLast));
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  const std::vector<float> zeros(static_cast<size_t>(std::max(ins, outs)), 0.0f);
  const float* bias = finish.bias.defined() ? finish.bias.const_data_ptr<float>() : zeros.data();
  at::parallel_for(0, (tiles + kTogether - 1) / kTogether, 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_history;
    const Tensor v = numbers(x, kTogether, ins), m = numbers(x, kTogether, outs);
    float *of_v = v.mutable_data_ptr<float>(), *of_m = m.mutable_data_ptr<float>();
    std::vector<float> unused(static_cast<size_t>(outs));
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part * kTogether, count = std::min(kTogether, tiles - first);
      for (int64_t i = 0; i < count; ++i) {
        const float* pixels[16];
        grid.pixels<4>(first + i, 1, from, ins, zeros.data(), pixels);
        winograd_input(pixels, of_v + i * ins, kTogether * ins, ins);
      }
      Tensor product = m.narrow(1, 0, count);
      at::bmm_out(product, v.narrow(1, 0, count), u);
      for (int64_t i = 0; i < count; ++i) {
        float* pixels[4];
        grid.pixels<2>(first + i, 0, to, outs, unused.data(), pixels);
        winograd_output(of_m + i * outs, kTogether * outs, bias, finish.silu, pixels, outs);
      }
    }
  });
  return y;
}

// The gradient of the filters: [16, Cout, Cin], summed over all tiles.
Tensor filters_backward(const Tensor& d, const Tensor& x) {
  const Grid grid(x);
  const int64_t ins = x.size(1), outs = d.size(1), tiles = grid.tiles();
  const Tensor v = numbers(x, kTogetherOfWeight, ins), m = numbers(x, kTogetherOfWeight, outs);
  const Tensor du = at::zeros({16, outs, ins}, v.options());
  const float *of_x = x.const_data_ptr<float>(), *of_d = d.const_data_ptr<float>();
  float *of_v = v.mutable_data_ptr<float>(), *of_m = m.mutable_data_ptr<float>();
  const std::vector<float> zeros(static_cast<size_t>(std::max(ins, outs)), 0.0f);
  for (int64_t first = 0; first < tiles; first += kTogetherOfWeight) {
    const int64_t count = std::min(kTogetherOfWeight, tiles - first);
    at::parallel_for(0, count, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* pixels[16];
        grid.pixels<4>(first + i, 1, of_x, ins, zeros.data(), pixels);
        winograd_input(pixels, of_v + i * ins, kTogetherOfWeight * ins, ins);
        grid.pixels<2>(first + i, 0, of_d, outs, zeros.data(), pixels);
        winograd_output_backward(pixels, of_m + i * outs, kTogetherOfWeight * outs, outs);
      }
    });
    at::parallel_for(0, 16, 1, [&](int64_t begin, int64_t end) {
      const at::AutoDispatchBelowADInplaceOrView no_history;
      for (int64_t k = begin; k < end; ++k) {
        Tensor sum = du[k];
        at::addmm_out(sum, sum, m[k].narrow(0, 0, count).t(), v[k].narrow(0, 0, count));
      }
    });
  }
  return du;
}

}  // namespace

Tensor winograd_conv(const Tensor& x, const Tensor& weight, const Finish& finish) {
  return multiply(x, filters(weight), finish);
}

Tensor winograd_conv_of_input(const Tensor& d, const Tensor& weight) { return multiply(d, filters_back(weight), {}); }

Tensor winograd_conv_of_weight(const Tensor& d, const Tensor& x) {
  const Tensor du = filters_backward(d, x);
  const int64_t outs = du.size(1), ins = du.size(2);
  Tensor dw = at::empty({outs, ins, 3, 3}, x.options().memory_format(kLast));
  const float* from = du.const_data_ptr<float>();
  float* to = dw.mutable_data_ptr<float>();
  at::parallel_for(0, outs, 8, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) winograd_filter_backward(from + o * ins, outs * ins, to + o * 9 * ins, ins);
  });
  return dw;
}

}  // namespace ddpm
