// Winograd transforms of a 3x3 convolution by tiles, F(2x2, 3x3): a tile of 4x4 inputs and a filter become 16 numbers
// each, which are multiplied, summed over the channels, and transformed to 2x2 outputs. This needs 16 multiplications
// in place of 36, and f32 rounds less often. Gradients use the transposed transforms.
//
// Each transform handles all channels at once; number k of a tile is at k * stride.
//
// Source: Winograd 1980; Lavin & Gray 2015, section 4.1 <https://arxiv.org/abs/1509.09308>

#pragma once

#include <cstdint>

namespace ddpm {

// `pixels`: the 4x4 inputs row by row, `channels` values each.
void winograd_input(const float* const* pixels, float* v, int64_t stride, int64_t channels);

// `pixels`: the 2x2 outputs, with bias[c] added and then silu applied if requested.
void winograd_output(const float* m, int64_t stride, const float* bias, bool silu, float* const* pixels,
                     int64_t channels);

// `taps`: 3x3 row by row, `channels` values each.
void winograd_filter(const float* const* taps, float* u, int64_t stride, int64_t channels);

// Gradients of m, from those of the 2x2 outputs.
void winograd_output_backward(const float* const* pixels, float* m, int64_t stride, int64_t channels);

// Gradients of the 3x3 taps, contiguous, from those of u.
void winograd_filter_backward(const float* u, int64_t stride, float* taps, int64_t channels);

}  // namespace ddpm
