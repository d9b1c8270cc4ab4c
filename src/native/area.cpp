// The two loops of resizing by area (src/data/resize.rs): sums down the rows, then means across the columns. All
// numbers are integers that f64 holds exactly, so neither the order of sums nor fused multiply-add matters.

#include <cstdint>
#include <cstring>

#include "fused/vector.h"

namespace {

// Lanes of AVX2; a pixel of three channels leaves one unused.
typedef double Four __attribute__((vector_size(32)));

// Adding this rounds a number to an integer, which is then in the low bits.
constexpr double kIntegers = 4503599627370496.0;  // 2^52

inline uint8_t rounded(double value) {
  value += kIntegers;
  uint64_t bits;
  std::memcpy(&bits, &value, 8);
  return static_cast<uint8_t>(bits);
}

}  // namespace

extern "C" {

// pixels[i] = the sum over k of rows[k * width + i] * weights[k], below 2^31; `sums`, of `width`, is overwritten.
FOR_EACH_PROCESSOR
void ddpm_area_down(const uint8_t* __restrict rows, const uint16_t* __restrict weights, int64_t count,
                    uint32_t* __restrict sums, double* __restrict pixels, int64_t width) {
  for (int64_t i = 0; i < width; ++i) sums[i] = rows[i] * static_cast<uint32_t>(weights[0]);
  for (int64_t k = 1; k < count; ++k) {
    const uint8_t* row = rows + k * width;
    const uint32_t weight = weights[k];
    for (int64_t i = 0; i < width; ++i) sums[i] += row[i] * weight;
  }
  // Signed integers convert faster.
  for (int64_t i = 0; i < width; ++i) pixels[i] = static_cast<int32_t>(sums[i]);
}

// out[x] = the sum over k of pixels[first[x] + k] * weights[x * each + k] / total, rounded half up, for each of
// `channels` channels, 1 or 3. Four numbers are read at each pixel.
//
// A quotient is a multiple of 1 / total. One half way between integers must round up, and no smaller one may: adding a
// quarter of 1 / total does that. Multiplying by the reciprocal, a quotient below 2^8 is off by less than 2^-44, less
// than that quarter for a total below 2^40.
FOR_EACH_PROCESSOR
void ddpm_area_across(const double* __restrict pixels, int64_t channels, const uint32_t* __restrict first,
                      const double* __restrict weights, int64_t each, double total,
                      uint8_t* __restrict out, int64_t results) {
  const double reciprocal = 1 / total;
  for (int64_t x = 0; x < results; ++x, weights += each, out += channels) {
    const double* at = pixels + first[x] * channels;
    if (channels == 1) {
      double sum = 0.25;
      for (int64_t k = 0; k < each; ++k) sum += at[k] * weights[k];
      out[0] = rounded(sum * reciprocal);
      continue;
    }
    Four sum = {0.25, 0.25, 0.25, 0.25};
    for (int64_t k = 0; k < each; ++k, at += 3) {
      Four pixel;
      std::memcpy(&pixel, at, sizeof pixel);
      sum += pixel * weights[k];
    }
    sum *= reciprocal;
    for (int c = 0; c < 3; ++c) out[c] = rounded(sum[c]);
  }
}

}  // extern "C"
