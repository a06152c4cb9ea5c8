// The storage formats of tables and gradients: how they become float32 and come back.
//
// All arithmetic is float32. Each conversion is integer arithmetic that reads the same for one
// number (U = uint32_t; what CUDA would use) and for a vector of them.
#pragma once

#include <cstdint>
#include <cstring>

#include "sets.h"

namespace multi_hot {

template <class To, class From>
MULTI_HOT_DEVICE inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// All ones where true, as vector comparisons give it.
MULTI_HOT_DEVICE inline uint32_t mask(bool condition) { return condition ? ~0u : 0u; }
template <class Mask>
MULTI_HOT_DEVICE inline Mask mask(Mask condition) {
  return condition;
}

template <class U, class Mask>
MULTI_HOT_DEVICE inline U select(Mask condition, U yes, U no) {
  const U chosen = bit_cast<U>(mask(condition));
  return (yes & chosen) | (no & ~chosen);
}

// F is float or a vector of floats, U the unsigned integers of the same size.
struct Float32 {
  using Storage = float;
};

struct BFloat16 {
  using Storage = uint16_t;

  template <class F, class U>
  MULTI_HOT_DEVICE static F widen(U bits) {
    return bit_cast<F>(bits << 16);
  }

  // Rounds to nearest, ties to even; NaN stays NaN.
  template <class U, class F>
  MULTI_HOT_DEVICE static U narrow(F value) {
    const U bits = bit_cast<U>(value);
    const U rounded = bits + (((bits >> 16) & 1u) + 0x7fffu);
    const U quiet_nan = bits | 0x00400000u;
    return select((bits & 0x7fffffffu) > 0x7f800000u, quiet_nan, rounded) >> 16;
  }
};

// The method is Fabian Giesen's (float->half variants, public domain, 2012): subnormals go through
// the addition of a constant of the right exponent, so that no intermediate is a float32
// subnormal, which TensorFlow's threads flush to zero.
struct Float16 {
  using Storage = uint16_t;

  template <class F, class U>
  MULTI_HOT_DEVICE static F widen(U half) {
    const U sign = (half & 0x8000u) << 16;
    const U shifted = (half & 0x7fffu) << 13;
    const U exponent = shifted & 0x0f800000u;
    const U normal = shifted + (112u << 23);
    const U special = normal + (112u << 23);  // infinities and NaN
    const U smallest = (shifted & 0u) + (113u << 23);
    const U subnormal = bit_cast<U>(bit_cast<F>(shifted + (113u << 23)) - bit_cast<F>(smallest));
    const U finite = select(exponent == 0u, subnormal, normal);
    return bit_cast<F>(select(exponent == 0x0f800000u, special, finite) | sign);
  }

  // Rounds to nearest, ties to even; overflows to infinity; NaN stays NaN.
  template <class U, class F>
  MULTI_HOT_DEVICE static U narrow(F value) {
    const U bits = bit_cast<U>(value);
    const U sign = bits & 0x80000000u;
    const U magnitude = bits ^ sign;
    const U zero = magnitude & 0u;
    const U half = zero + (126u << 23);  // 0.5, whose last bit has the weight of a subnormal's
    const U subnormal = bit_cast<U>(bit_cast<F>(magnitude) + bit_cast<F>(half)) - half;
    const U odd = (magnitude >> 13) & 1u;
    const U normal = (magnitude - (112u << 23) + 0xfffu + odd) >> 13;
    const U special = select(magnitude > (255u << 23), zero + 0x7e00u, zero + 0x7c00u);
    const U finite = select(magnitude < (113u << 23), subnormal, normal);
    return select(magnitude >= (143u << 23), special, finite) | (sign >> 16);
  }
};

}  // namespace multi_hot
