// Vector types by the compiler's vector extensions (GCC, Clang), as wide as the processor's.
#ifndef MULTI_HOT_VECTORS_H_
#define MULTI_HOT_VECTORS_H_

#include <cstdint>

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

}  // namespace multi_hot

#endif  // MULTI_HOT_VECTORS_H_
