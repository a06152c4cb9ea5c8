// Reading and writing W columns of a row at a time, in any of the storage formats.
#ifndef MULTI_HOT_LANES_H_
#define MULTI_HOT_LANES_H_

#include <cstdint>
#include <cstring>

#include "convert.h"
#include "formats.h"
#include "vectors.h"

namespace multi_hot {

template <int W>
struct Lanes {
  using Floats = typename Vectors<W>::Floats;

  template <class Format>
  static Floats load(const uint16_t* from) {
    typename Vectors<W>::HalfBits bits;
    std::memcpy(&bits, from, sizeof(bits));
    return Convert<Format, W>::widen(bits);
  }
  template <class Format>
  static void store(uint16_t* to, Floats value) {
    const typename Vectors<W>::HalfBits bits = Convert<Format, W>::narrow(value);
    std::memcpy(to, &bits, sizeof(bits));
  }

  template <class Format>
  static Floats load(const float* from) {
    Floats value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  template <class Format>
  static void store(float* to, Floats value) {
    std::memcpy(to, &value, sizeof(value));
  }
};

// One column: the tail that is too narrow for vectors, and the model for a CUDA thread.
template <>
struct Lanes<1> {
  using Floats = float;

  template <class Format>
  MULTI_HOT_DEVICE static float load(const uint16_t* from) {
    return Format::template widen<float>(static_cast<uint32_t>(*from));
  }
  template <class Format>
  MULTI_HOT_DEVICE static void store(uint16_t* to, float value) {
    *to = static_cast<uint16_t>(Format::template narrow<uint32_t>(value));
  }
  template <class Format>
  MULTI_HOT_DEVICE static float load(const float* from) {
    return *from;
  }
  template <class Format>
  MULTI_HOT_DEVICE static void store(float* to, float value) {
    *to = value;
  }
};

}  // namespace multi_hot

#endif  // MULTI_HOT_LANES_H_
