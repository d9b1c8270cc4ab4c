#include "rows.h"

#include <cmath>
#include <cstring>

#include "vector.h"

namespace ddpm {

FOR_EACH_PROCESSOR
void widen(const uint16_t* __restrict x, float* __restrict y, int64_t values) {
  for (int64_t i = 0; i < values; ++i) {
    const uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
    std::memcpy(y + i, &bits, 4);
  }
}

FOR_EACH_PROCESSOR
void narrow(const float* __restrict x, uint16_t* __restrict y, int64_t values) {
  for (int64_t i = 0; i < values; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    // Rounding would turn some NaNs into infinities.
    const bool none = x[i] != x[i];
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    y[i] = static_cast<uint16_t>((none ? bits | 0x400000 : rounded) >> 16);
  }
}

FOR_EACH_PROCESSOR
void rows_add(const float* __restrict x, const float* __restrict t, float* __restrict y, int64_t rows,
              int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, x += channels, y += channels) {
    for (int64_t c = 0; c < channels; ++c) y[c] = x[c] + t[c];
  }
}

FOR_EACH_PROCESSOR
void rows_silu(const float* __restrict x, float* __restrict a, int64_t rows, int64_t channels) {
  for (int64_t i = 0; i < rows * channels; ++i) a[i] = x[i] * sigmoid(x[i]);
}

FOR_EACH_PROCESSOR
void rows_sum_and_moments(const float* __restrict h, const float* __restrict r, bool activated, float* __restrict s,
                          float* __restrict sum, float* __restrict squares, int64_t rows, int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, h += channels, r += channels, s += channels) {
    if (activated) {
      for (int64_t c = 0; c < channels; ++c) s[c] = h[c] + r[c];
    } else {
      for (int64_t c = 0; c < channels; ++c) s[c] = h[c] * sigmoid(h[c]) + r[c];
    }
    for (int64_t c = 0; c < channels; ++c) {
      sum[c] += s[c];
      squares[c] += s[c] * s[c];
    }
  }
}

FOR_EACH_PROCESSOR
void rows_normalise(float* __restrict s, const float* __restrict skip, const float* __restrict mean,
                    const float* __restrict scale, const float* __restrict shift, int64_t rows, int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, s += channels) {
    for (int64_t c = 0; c < channels; ++c) s[c] = (s[c] - mean[c]) * scale[c] + shift[c];
    if (skip) {
      for (int64_t c = 0; c < channels; ++c) s[c] += skip[c];
      skip += channels;
    }
  }
}

FOR_EACH_PROCESSOR
void rows_norm_backward_sums(const float* __restrict d, const float* __restrict h, const float* __restrict r,
                             const float* __restrict mean, const float* __restrict rstd, float* __restrict sum,
                             float* __restrict dot, int64_t rows, int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, d += channels, h += channels, r += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const float s_hat = (h[c] * sigmoid(h[c]) + r[c] - mean[c]) * rstd[c];
      sum[c] += d[c];
      dot[c] += d[c] * s_hat;
    }
  }
}

FOR_EACH_PROCESSOR
void rows_norm_backward(const float* __restrict d, const float* __restrict h, const float* __restrict r,
                        const float* __restrict mean, const float* __restrict rstd, const float* __restrict scale,
                        const float* __restrict offset, const float* __restrict slope, float* __restrict dr,
                        float* __restrict dh, int64_t rows, int64_t channels) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t c = 0; c < channels; ++c) {
      const float sigmoid_h = sigmoid(h[c]);
      const float s_hat = (h[c] * sigmoid_h + r[c] - mean[c]) * rstd[c];
      const float ds = d[c] * scale[c] - offset[c] - s_hat * slope[c];
      dr[c] = ds;
      dh[c] = ds * silu_slope(h[c], sigmoid_h);
    }
    d += channels, h += channels, r += channels, dr += channels, dh += channels;
  }
}

FOR_EACH_PROCESSOR
void rows_silu_backward(float* __restrict d, const float* __restrict h, float* __restrict a, int64_t rows,
                        int64_t channels) {
  for (int64_t i = 0; i < rows * channels; ++i) {
    const float sigmoid_h = sigmoid(h[i]);
    a[i] = h[i] * sigmoid_h;
    d[i] *= silu_slope(h[i], sigmoid_h);
  }
}

FOR_EACH_PROCESSOR
void rows_accumulate(float* __restrict to, const float* __restrict d, float* __restrict sum, int64_t rows,
                     int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, to += channels, d += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      to[c] += d[c];
      sum[c] += d[c];
    }
  }
}

FOR_EACH_PROCESSOR
void rows_moments(const float* __restrict x, float* __restrict sum, float* __restrict squares, int64_t rows,
                  int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, x += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      sum[c] += x[c];
      squares[c] += x[c] * x[c];
    }
  }
}

FOR_EACH_PROCESSOR
void rows_scale_silu(const float* __restrict x, const float* __restrict scale, const float* __restrict shift,
                     float* __restrict y, int64_t rows, int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, x += channels, y += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const float z = x[c] * scale[c] + shift[c];
      y[c] = z * sigmoid(z);
    }
  }
}

FOR_EACH_PROCESSOR
void rows_scale_silu_backward_sums(const float* __restrict d, const float* __restrict x,
                                   const float* __restrict scale, const float* __restrict shift,
                                   const float* __restrict rstd, const float* __restrict centre,
                                   float* __restrict sum, float* __restrict dot, int64_t rows, int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, d += channels, x += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const float z = x[c] * scale[c] + shift[c];
      const float dz = d[c] * silu_slope(z, sigmoid(z));
      sum[c] += dz;
      dot[c] += dz * (x[c] * rstd[c] + centre[c]);
    }
  }
}

FOR_EACH_PROCESSOR
void rows_scale_silu_backward(const float* __restrict d, const float* __restrict x, const float* __restrict scale,
                              const float* __restrict shift, const float* __restrict slope,
                              const float* __restrict offset, float* __restrict dx, int64_t rows, int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, d += channels, x += channels, dx += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const float z = x[c] * scale[c] + shift[c];
      dx[c] = d[c] * silu_slope(z, sigmoid(z)) * scale[c] - (x[c] * slope[c] + offset[c]);
    }
  }
}

FOR_EACH_PROCESSOR
void rows_rms(const float* __restrict x, const float* __restrict weight, const float* __restrict bias, float smallest,
              bool silu, float* __restrict y, int64_t rows, int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, x += channels, y += channels) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < channels; ++c) squares += x[c] * x[c];
    const float length = std::sqrt(squares);
    // A NaN length stays NaN.
    const float inverse = 1.0f / (length < smallest ? smallest : length);
    if (silu) {
      for (int64_t c = 0; c < channels; ++c) {
        const float z = x[c] * inverse * weight[c] + bias[c];
        y[c] = z * sigmoid(z);
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) y[c] = x[c] * inverse * weight[c] + bias[c];
    }
  }
}

FOR_EACH_PROCESSOR
void rows_rms_backward(const float* __restrict d, const float* __restrict x, const float* __restrict weight,
                       const float* __restrict bias, float smallest, bool silu, float* __restrict dx,
                       float* __restrict sum, float* __restrict dot, int64_t rows, int64_t channels) {
  for (int64_t i = 0; i < rows; ++i, d += channels, x += channels, dx += channels) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < channels; ++c) squares += x[c] * x[c];
    const float length = std::sqrt(squares);
    const float inverse = 1.0f / (length < smallest ? smallest : length);
    // The gradient of the normalised row, and its component along the row, which the norm removes.
    float along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t c = 0; c < channels; ++c) {
      const float unit = x[c] * inverse;
      const float z = unit * weight[c] + bias[c];
      const float dz = silu ? d[c] * silu_slope(z, sigmoid(z)) : d[c];
      sum[c] += dz;
      dot[c] += dz * unit;
      dx[c] = dz * weight[c];
      along += dx[c] * unit;
    }
    if (length < smallest) along = 0;
    for (int64_t c = 0; c < channels; ++c) dx[c] = (dx[c] - x[c] * inverse * along) * inverse;
  }
}

}  // namespace ddpm
