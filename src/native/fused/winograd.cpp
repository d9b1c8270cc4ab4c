#include "winograd.h"

#include "vector.h"

namespace ddpm {

FOR_EACH_PROCESSOR
void winograd_input(const float* const* pixels, float* __restrict v, int64_t stride, int64_t channels) {
  const float *p00 = pixels[0], *p01 = pixels[1], *p02 = pixels[2], *p03 = pixels[3];
  const float *p10 = pixels[4], *p11 = pixels[5], *p12 = pixels[6], *p13 = pixels[7];
  const float *p20 = pixels[8], *p21 = pixels[9], *p22 = pixels[10], *p23 = pixels[11];
  const float *p30 = pixels[12], *p31 = pixels[13], *p32 = pixels[14], *p33 = pixels[15];
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const float d[4][4] = {{p00[c], p01[c], p02[c], p03[c]},
                           {p10[c], p11[c], p12[c], p13[c]},
                           {p20[c], p21[c], p22[c], p23[c]},
                           {p30[c], p31[c], p32[c], p33[c]}};
    float t[4][4];
    for (int j = 0; j < 4; ++j) {
      t[0][j] = d[0][j] - d[2][j];
      t[1][j] = d[1][j] + d[2][j];
      t[2][j] = d[2][j] - d[1][j];
      t[3][j] = d[1][j] - d[3][j];
    }
    for (int i = 0; i < 4; ++i) {
      v[(4 * i + 0) * stride + c] = t[i][0] - t[i][2];
      v[(4 * i + 1) * stride + c] = t[i][1] + t[i][2];
      v[(4 * i + 2) * stride + c] = t[i][2] - t[i][1];
      v[(4 * i + 3) * stride + c] = t[i][1] - t[i][3];
    }
  }
}

FOR_EACH_PROCESSOR
void winograd_output(const float* __restrict m, int64_t stride, const float* __restrict bias, bool silu,
                     float* const* pixels, int64_t channels) {
  float *y00 = pixels[0], *y01 = pixels[1], *y10 = pixels[2], *y11 = pixels[3];
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    float s[2][4];
    for (int j = 0; j < 4; ++j) {
      const float m0 = m[j * stride + c], m1 = m[(4 + j) * stride + c];
      const float m2 = m[(8 + j) * stride + c], m3 = m[(12 + j) * stride + c];
      s[0][j] = m0 + m1 + m2;
      s[1][j] = m1 - m2 - m3;
    }
    y00[c] = s[0][0] + s[0][1] + s[0][2] + bias[c];
    y01[c] = s[0][1] - s[0][2] - s[0][3] + bias[c];
    y10[c] = s[1][0] + s[1][1] + s[1][2] + bias[c];
    y11[c] = s[1][1] - s[1][2] - s[1][3] + bias[c];
  }
  if (!silu) return;
  // A separate loop: a branch inside the other would prevent vectorisation.
  for (int k = 0; k < 4; ++k) {
    float* y = pixels[k];
    for (int64_t c = 0; c < channels; ++c) y[c] *= sigmoid(y[c]);
  }
}

FOR_EACH_PROCESSOR
void winograd_filter(const float* const* taps, float* __restrict u, int64_t stride, int64_t channels) {
  const float *p00 = taps[0], *p01 = taps[1], *p02 = taps[2], *p10 = taps[3], *p11 = taps[4], *p12 = taps[5];
  const float *p20 = taps[6], *p21 = taps[7], *p22 = taps[8];
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const float g[3][3] = {{p00[c], p01[c], p02[c]}, {p10[c], p11[c], p12[c]}, {p20[c], p21[c], p22[c]}};
    float t[4][3];
    for (int j = 0; j < 3; ++j) {
      const float g0 = g[0][j], g1 = g[1][j], g2 = g[2][j];
      t[0][j] = g0;
      t[1][j] = 0.5f * (g0 + g1 + g2);
      t[2][j] = 0.5f * (g0 - g1 + g2);
      t[3][j] = g2;
    }
    for (int i = 0; i < 4; ++i) {
      u[(4 * i + 0) * stride + c] = t[i][0];
      u[(4 * i + 1) * stride + c] = 0.5f * (t[i][0] + t[i][1] + t[i][2]);
      u[(4 * i + 2) * stride + c] = 0.5f * (t[i][0] - t[i][1] + t[i][2]);
      u[(4 * i + 3) * stride + c] = t[i][2];
    }
  }
}

FOR_EACH_PROCESSOR
void winograd_output_backward(const float* const* pixels, float* __restrict m, int64_t stride, int64_t channels) {
  const float *p00 = pixels[0], *p01 = pixels[1], *p10 = pixels[2], *p11 = pixels[3];
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const float y00 = p00[c], y01 = p01[c], y10 = p10[c], y11 = p11[c];
    const float s[4][2] = {{y00, y01}, {y00 + y10, y01 + y11}, {y00 - y10, y01 - y11}, {-y10, -y11}};
    for (int i = 0; i < 4; ++i) {
      m[(4 * i + 0) * stride + c] = s[i][0];
      m[(4 * i + 1) * stride + c] = s[i][0] + s[i][1];
      m[(4 * i + 2) * stride + c] = s[i][0] - s[i][1];
      m[(4 * i + 3) * stride + c] = -s[i][1];
    }
  }
}

FOR_EACH_PROCESSOR
void winograd_filter_backward(const float* __restrict u, int64_t stride, float* __restrict taps, int64_t channels) {
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    float t[3][4];
    for (int j = 0; j < 4; ++j) {
      const float u0 = u[j * stride + c], u1 = u[(4 + j) * stride + c];
      const float u2 = u[(8 + j) * stride + c], u3 = u[(12 + j) * stride + c];
      t[0][j] = u0 + 0.5f * (u1 + u2);
      t[1][j] = 0.5f * (u1 - u2);
      t[2][j] = 0.5f * (u1 + u2) + u3;
    }
    for (int i = 0; i < 3; ++i) {
      taps[(3 * i + 0) * channels + c] = t[i][0] + 0.5f * (t[i][1] + t[i][2]);
      taps[(3 * i + 1) * channels + c] = 0.5f * (t[i][1] - t[i][2]);
      taps[(3 * i + 2) * channels + c] = 0.5f * (t[i][1] + t[i][2]) + t[i][3];
    }
  }
}

}  // namespace ddpm
