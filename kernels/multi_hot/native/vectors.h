// Vectors of W columns of a row: read from a storage format as float32, and written back.
//
// Uses the compiler's vector extensions (GCC, Clang), except where these cost more than the sums
// themselves: GCC 12 compiles the conversion of a vector of _Float16 to sixteen scalar ones, and the
// widening of integers to four instructions. There the code names the processor's own instruction.
#pragma once

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "formats.h"

namespace multi_hot {

// The width of the processor's vectors.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;  // SSE, NEON
#endif

// Written out, since GCC does not take a vector size that depends on a template's parameter. One
// column is the tail that is too narrow for vectors, and the model for a CUDA thread.
template <int W>
struct Vectors;
template <>
struct Vectors<1> {
  using Floats = float;
  using Bits = uint32_t;
  using HalfBits = uint16_t;
};
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

// Integers of 16 bits to 32 and back, whole vectors at a time.
template <class To, class From>
MULTI_HOT_DEVICE inline To resize_bits(From bits) {
  if constexpr (std::is_integral_v<From>) {
    return static_cast<To>(bits);
  } else {
    return __builtin_convertvector(bits, To);
  }
}
#if defined(__AVX2__)
template <>
inline Vectors<8>::Bits resize_bits(Vectors<8>::HalfBits bits) {
  return bit_cast<Vectors<8>::Bits>(_mm256_cvtepu16_epi32(bit_cast<__m128i>(bits)));
}
#endif
#if defined(__AVX512F__)
template <>
inline Vectors<16>::Bits resize_bits(Vectors<16>::HalfBits bits) {
  return bit_cast<Vectors<16>::Bits>(_mm512_cvtepu16_epi32(bit_cast<__m256i>(bits)));
}
template <>
inline Vectors<16>::HalfBits resize_bits(Vectors<16>::Bits bits) {
  return bit_cast<Vectors<16>::HalfBits>(_mm512_cvtepi32_epi16(bit_cast<__m512i>(bits)));
}
#endif

template <class Format, int W>
struct Convert {
  using V = Vectors<W>;
  MULTI_HOT_DEVICE static typename V::Floats widen(typename V::HalfBits bits) {
    return Format::template widen<typename V::Floats>(resize_bits<typename V::Bits>(bits));
  }
  MULTI_HOT_DEVICE static typename V::HalfBits narrow(typename V::Floats value) {
    return resize_bits<typename V::HalfBits>(Format::template narrow<typename V::Bits>(value));
  }
};
template <int W>
struct Convert<Float32, W> {
  using Floats = typename Vectors<W>::Floats;
  MULTI_HOT_DEVICE static Floats widen(Floats value) { return value; }
  MULTI_HOT_DEVICE static Floats narrow(Floats value) { return value; }
};

#if defined(__F16C__)
constexpr int kToNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

template <>
struct Convert<Float16, 4> {
  static Vectors<4>::Floats widen(Vectors<4>::HalfBits bits) {
    const __m128i low = _mm_set_epi64x(0, bit_cast<int64_t>(bits));
    return bit_cast<Vectors<4>::Floats>(_mm_cvtph_ps(low));
  }
  static Vectors<4>::HalfBits narrow(Vectors<4>::Floats value) {
    const __m128i low = _mm_cvtps_ph(bit_cast<__m128>(value), kToNearest);
    return bit_cast<Vectors<4>::HalfBits>(_mm_cvtsi128_si64(low));
  }
};
template <>
struct Convert<Float16, 8> {
  static Vectors<8>::Floats widen(Vectors<8>::HalfBits bits) {
    return bit_cast<Vectors<8>::Floats>(_mm256_cvtph_ps(bit_cast<__m128i>(bits)));
  }
  static Vectors<8>::HalfBits narrow(Vectors<8>::Floats value) {
    return bit_cast<Vectors<8>::HalfBits>(_mm256_cvtps_ph(bit_cast<__m256>(value), kToNearest));
  }
};
#endif
#if defined(__F16C__) && defined(__AVX512F__)
template <>
struct Convert<Float16, 16> {
  static Vectors<16>::Floats widen(Vectors<16>::HalfBits bits) {
    return bit_cast<Vectors<16>::Floats>(_mm512_cvtph_ps(bit_cast<__m256i>(bits)));
  }
  static Vectors<16>::HalfBits narrow(Vectors<16>::Floats value) {
    return bit_cast<Vectors<16>::HalfBits>(_mm512_cvtps_ph(bit_cast<__m512>(value), kToNearest));
  }
};
#endif

template <class Format, int W>
MULTI_HOT_DEVICE inline typename Vectors<W>::Floats load(const typename Format::Storage* from) {
  constexpr bool is_float = std::is_same_v<Format, Float32>;
  std::conditional_t<is_float, typename Vectors<W>::Floats, typename Vectors<W>::HalfBits> stored;
  std::memcpy(&stored, from, sizeof(stored));
  return Convert<Format, W>::widen(stored);
}

template <class Format, int W>
MULTI_HOT_DEVICE inline void store(typename Format::Storage* to,
                                   typename Vectors<W>::Floats value) {
  const auto stored = Convert<Format, W>::narrow(value);
  std::memcpy(to, &stored, sizeof(stored));
}

}  // namespace multi_hot
