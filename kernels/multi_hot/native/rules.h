// The rules of the optimizers of touched rows, for one number each: for g++ and NVRTC alike.
// table_rules.py has them as operations of XLA.
#pragma once

#ifdef __CUDACC_RTC__  // NVRTC has no headers
#define MULTI_HOT_RULE __device__ inline
#else
#include <cmath>
#define MULTI_HOT_RULE inline
#endif

namespace multi_hot {

// The terms of the series by which a row of Adam catches up; see rows/table_update.h.
constexpr int kTerms = 5;

// Numbers that look random, "lowbias32" of Wellons, "Prospecting for Hash Functions", 2018.
MULTI_HOT_RULE unsigned scrambled(unsigned x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// The seed of the chances by which a row of bfloat16 is rounded up or down in a step.
MULTI_HOT_RULE unsigned rounding_seed(long long step, long long id) {
  return scrambled(scrambled(static_cast<unsigned>(step)) + static_cast<unsigned>(id));
}

// Keras's Adam: moves both moments, and returns what is subtracted from the weight.
MULTI_HOT_RULE float adam(float g, float& m, float& v, float rate, float grow_m, float grow_v,
                          float epsilon) {
  m += (g - m) * grow_m;
  v += (g * g - v) * grow_v;
  return m * rate / (sqrtf(v) + epsilon);
}

// Adagrad with one sum for a row: adds the mean square of the row's gradient, `squares` over `units`,
// to the sum, and returns the row's learning rate. `factor` belongs to the gradient.
MULTI_HOT_RULE float adagrad_rate(float squares, long long units, float factor, float& sum, float rate,
                                  float epsilon) {
  sum += factor * factor * squares / static_cast<float>(units);
  return rate * factor / sqrtf(sum + epsilon);
}

// What a segment of steps without a gradient subtracts from a weight of Adam; `s` are the sums of the
// series' terms.
MULTI_HOT_RULE float caught_up(float m, float v, float center, float epsilon, const float (&s)[kTerms]) {
  const float root = sqrtf(v) * center;
  const float inverse = 1.0f / (root + epsilon);
  const float q = -root * inverse;
  return m * inverse * (s[0] + q * (s[1] + q * (s[2] + q * (s[3] + q * s[4]))));
}

}  // namespace multi_hot
