// Vectors of float32 as wide as the processor's, by the compiler's vector extensions (GCC, Clang).
#ifndef MULTI_HOT_LANES_H_
#define MULTI_HOT_LANES_H_

#include <cstdint>
#include <cstring>

#include "formats.h"

namespace multi_hot {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;  // SSE, NEON
#endif

// Written out, since GCC does not take a vector size that depends on a template's parameter.
template <int W>
struct Vectors;
template <>
struct Vectors<4> {
  typedef float Floats __attribute__((vector_size(16)));
  typedef uint32_t Bits __attribute__((vector_size(16)));
  typedef uint16_t HalfBits __attribute__((vector_size(8)));
};
template <>
struct Vectors<8> {
  typedef float Floats __attribute__((vector_size(32)));
  typedef uint32_t Bits __attribute__((vector_size(32)));
  typedef uint16_t HalfBits __attribute__((vector_size(16)));
};
template <>
struct Vectors<16> {
  typedef float Floats __attribute__((vector_size(64)));
  typedef uint32_t Bits __attribute__((vector_size(64)));
  typedef uint16_t HalfBits __attribute__((vector_size(32)));
};

template <int W>
struct Lanes {
  using Floats = typename Vectors<W>::Floats;
  using Bits = typename Vectors<W>::Bits;
  using HalfBits = typename Vectors<W>::HalfBits;

  // A 16-bit format.
  template <class Format>
  static Floats load(const uint16_t* from) {
    HalfBits bits;
    std::memcpy(&bits, from, sizeof(bits));
    return Format::template widen<Floats>(__builtin_convertvector(bits, Bits));
  }
  template <class Format>
  static void store(uint16_t* to, Floats value) {
    const Bits wide = Format::template narrow<Bits>(value);
    const HalfBits bits = __builtin_convertvector(wide, HalfBits);
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
  using Bits = uint32_t;

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
