// Loops over rows of channels: the operations on feature maps between convolutions, on a CPU.
//
// A map is `rows` x `channels` f32, contiguous, one row per pixel (channels last in memory); a bf16 map is widened part
// by part (maps.h). Every loop reads and writes each value once. Compiled for several kinds of processor; the best
// version is chosen when the program starts.

#pragma once

#include <cstdint>

namespace ddpm {

// bf16 to f32, and f32 to the nearest bf16, ties to even.
void widen(const uint16_t* x, float* y, int64_t values);
void narrow(const float* x, uint16_t* y, int64_t values);

// y = x + t[c]
void rows_add(const float* x, const float* t, float* y, int64_t rows, int64_t channels);

// a = silu(x)
void rows_silu(const float* x, float* a, int64_t rows, int64_t channels);

// s = silu(h) + r, or h + r where `activated`; sum[c] += s, squares[c] += s * s
void rows_sum_and_moments(const float* h, const float* r, bool activated, float* s, float* sum, float* squares,
                          int64_t rows, int64_t channels);

// s = (s - mean[c]) * scale[c] + shift[c] (+ skip unless null)
void rows_normalise(float* s, const float* skip, const float* mean, const float* scale, const float* shift,
                    int64_t rows, int64_t channels);

// With s_hat = (silu(h) + r - mean[c]) * rstd[c]: sum[c] += d, dot[c] += d * s_hat
void rows_norm_backward_sums(const float* d, const float* h, const float* r, const float* mean, const float* rstd,
                             float* sum, float* dot, int64_t rows, int64_t channels);

// dr = d * scale[c] - offset[c] - s_hat * slope[c], the gradient of silu(h) + r, and from it dh
void rows_norm_backward(const float* d, const float* h, const float* r, const float* mean, const float* rstd,
                        const float* scale, const float* offset, const float* slope, float* dr, float* dh,
                        int64_t rows, int64_t channels);

// From the gradient `d` of a = silu(h): a again, and d becomes the gradient of h.
void rows_silu_backward(float* d, const float* h, float* a, int64_t rows, int64_t channels);

// to += d; sum[c] += d
void rows_accumulate(float* to, const float* d, float* sum, int64_t rows, int64_t channels);

// sum[c] += x, squares[c] += x * x
void rows_moments(const float* x, float* sum, float* squares, int64_t rows, int64_t channels);

// y = silu(x * scale[c] + shift[c])
void rows_scale_silu(const float* x, const float* scale, const float* shift, float* y, int64_t rows,
                     int64_t channels);

// With dz the gradient of silu's argument there: sum[c] += dz, dot[c] += dz * (x * rstd[c] + centre[c])
void rows_scale_silu_backward_sums(const float* d, const float* x, const float* scale, const float* shift,
                                   const float* rstd, const float* centre, float* sum, float* dot, int64_t rows,
                                   int64_t channels);

// dx = dz * scale[c] - (x * slope[c] + offset[c])
void rows_scale_silu_backward(const float* d, const float* x, const float* scale, const float* shift,
                              const float* slope, const float* offset, float* dx, int64_t rows, int64_t channels);

// y = x / max(|x|, smallest) * weight[c] + bias[c], |x| the length of the row; or silu of it
void rows_rms(const float* x, const float* weight, const float* bias, float smallest, bool silu, float* y,
              int64_t rows, int64_t channels);

// dx; sum[c] += dz, dot[c] += dz * x / max(|x|, smallest)
void rows_rms_backward(const float* d, const float* x, const float* weight, const float* bias, float smallest,
                       bool silu, float* dx, float* sum, float* dot, int64_t rows, int64_t channels);

}  // namespace ddpm
