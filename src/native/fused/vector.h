// Shared by vectorised loops: compiler attributes, and swish.

#pragma once

#include <cstdint>
#include <cstring>

// One copy of each loop for AVX-512, one for AVX2 and one for any processor.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace ddpm {

// e^x to two units in the last place; x is clamped to the range of f32 results.
//
// Source: range reduction by Cody & Waite 1980; Cephes, expf (polynomial).
inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
  const float magic = 12582912.0f;
  const float shifted = x * 1.44269504f + magic;
  const float n = shifted - magic;
  const float f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  // Times 2^n, in the exponent.
  const int32_t power = (bits << 23) + (127 << 23);
  float two_to_n;
  std::memcpy(&two_to_n, &power, 4);
  return p * two_to_n;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// The derivative of x * sigmoid(x), given the sigmoid.
inline float silu_slope(float x, float sigmoid_x) { return sigmoid_x * (1.0f + x * (1.0f - sigmoid_x)); }

}  // namespace ddpm
