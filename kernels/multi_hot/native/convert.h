// Vectors of 16-bit numbers to vectors of 32 bits and back.
//
// In the compiler's vector extensions, except where they cost more than the sums themselves: GCC 12
// makes sixteen scalar conversions of a vector of _Float16, and four instructions of
// widening integers. There the processor's own instruction is named.
#ifndef MULTI_HOT_CONVERT_H_
#define MULTI_HOT_CONVERT_H_

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "formats.h"
#include "vectors.h"

namespace multi_hot {

template <int W>
inline typename Vectors<W>::Bits widen_bits(typename Vectors<W>::HalfBits bits) {
  return __builtin_convertvector(bits, typename Vectors<W>::Bits);
}
template <int W>
inline typename Vectors<W>::HalfBits narrow_bits(typename Vectors<W>::Bits bits) {
  return __builtin_convertvector(bits, typename Vectors<W>::HalfBits);
}
#if defined(__AVX2__)
template <>
inline Vectors<8>::Bits widen_bits<8>(Vectors<8>::HalfBits bits) {
  return bit_cast<Vectors<8>::Bits>(_mm256_cvtepu16_epi32(bit_cast<__m128i>(bits)));
}
#endif
#if defined(__AVX512F__)
template <>
inline Vectors<16>::Bits widen_bits<16>(Vectors<16>::HalfBits bits) {
  return bit_cast<Vectors<16>::Bits>(_mm512_cvtepu16_epi32(bit_cast<__m256i>(bits)));
}
template <>
inline Vectors<16>::HalfBits narrow_bits<16>(Vectors<16>::Bits bits) {
  return bit_cast<Vectors<16>::HalfBits>(_mm512_cvtepi32_epi16(bit_cast<__m512i>(bits)));
}
#endif

template <class Format, int W>
struct Convert {
  static typename Vectors<W>::Floats widen(typename Vectors<W>::HalfBits bits) {
    return Format::template widen<typename Vectors<W>::Floats>(widen_bits<W>(bits));
  }
  static typename Vectors<W>::HalfBits narrow(typename Vectors<W>::Floats value) {
    return narrow_bits<W>(Format::template narrow<typename Vectors<W>::Bits>(value));
  }
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

}  // namespace multi_hot

#endif  // MULTI_HOT_CONVERT_H_
