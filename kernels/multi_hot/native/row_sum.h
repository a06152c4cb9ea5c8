// The loop that both passes consist of: the sum of some rows of a matrix, weighted or not. The matrix
// is float32 or bfloat16, the sums are float32.
//
// Forward: y[b] is the sum of the table's rows over the ids of row b. Backward: dW[j] is the sum of
// dy's rows over the rows that hold id j.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "rules.h"

namespace multi_hot {

// The width of the processor's vectors.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;  // SSE, NEON
#endif
constexpr int kCacheLineBytes = 64;
// How many rows ahead to prefetch: a table lies in the second or third level of cache.
constexpr int64_t kPrefetchRows = 12;

// W columns of a row, by the compiler's vector extension (GCC, Clang).
template <int W>
struct Vector {
  typedef float Floats __attribute__((vector_size(W * sizeof(float))));
  typedef uint32_t Words __attribute__((vector_size(W * sizeof(uint32_t))));
  typedef uint16_t Halves __attribute__((vector_size(W * sizeof(uint16_t))));
};

template <int W>
inline typename Vector<W>::Floats load_columns(const float* from) {
  typename Vector<W>::Floats columns;
  std::memcpy(&columns, from, sizeof(columns));
  return columns;
}
template <int W>
inline typename Vector<W>::Floats load_columns(const Bfloat16* from) {
  typename Vector<W>::Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  const auto words = __builtin_convertvector(halves, typename Vector<W>::Words) << 16;
  typename Vector<W>::Floats columns;
  std::memcpy(&columns, &words, sizeof(columns));
  return columns;
}

// out[c] = sum over i of scale(i, matrix[picked[i], c]), for K vectors of W columns: the first K - 1 from
// column 0 on, the last at column `last`, where it may overlap the one before. Overlapping columns
// are computed twice with the same result, which avoids masks and a scalar tail.
template <int W, int K, class Element, class Scale>
inline void sum_columns(const Element* matrix, int64_t stride, const int32_t* picked,
                        int64_t num_picked, int64_t num_ahead, int64_t last, float* out,
                        Scale scale) {
  using Floats = typename Vector<W>::Floats;
  // K is a constant and the loops over it are unrolled, so the sums stay in registers. Without the
  // pragmas GCC keeps this array in memory, which makes the whole kernel three times slower.
  Floats sums[K] = {};
  for (int64_t i = 0; i < num_picked; ++i) {
    const Element* row = matrix + picked[i] * stride;
    if (i + kPrefetchRows < num_ahead) {
      const auto* ahead =
          reinterpret_cast<const char*>(matrix + picked[i + kPrefetchRows] * stride);
      constexpr int kBytes = K * W * sizeof(Element);
#pragma GCC unroll 8
      for (int byte = 0; byte < kBytes; byte += kCacheLineBytes) __builtin_prefetch(ahead + byte);
    }
#pragma GCC unroll 8
    for (int k = 0; k + 1 < K; ++k) sums[k] += scale(i, load_columns<W>(row + k * W));
    sums[K - 1] += scale(i, load_columns<W>(row + last));
  }
#pragma GCC unroll 8
  for (int k = 0; k + 1 < K; ++k) std::memcpy(out + k * W, &sums[k], sizeof(Floats));
  std::memcpy(out + last, &sums[K - 1], sizeof(Floats));
}

// As above for `num_columns` columns, W <= num_columns <= 8 W.
template <int W, class Element, class Scale>
void sum_block(const Element* matrix, int64_t stride, const int32_t* picked, int64_t num_picked,
               int64_t num_ahead, int64_t num_columns, float* out, Scale scale) {
  const int64_t last = num_columns - W;
  const auto sum = [&](auto num_vectors) {
    sum_columns<W, decltype(num_vectors)::value>(matrix, stride, picked, num_picked, num_ahead, last,
                                                 out, scale);
  };
  switch ((num_columns + W - 1) / W) {
    case 1: return sum(std::integral_constant<int, 1>());
    case 2: return sum(std::integral_constant<int, 2>());
    case 3: return sum(std::integral_constant<int, 3>());
    case 4: return sum(std::integral_constant<int, 4>());
    case 5: return sum(std::integral_constant<int, 5>());
    case 6: return sum(std::integral_constant<int, 6>());
    case 7: return sum(std::integral_constant<int, 7>());
    default: return sum(std::integral_constant<int, 8>());
  }
}

// As above for any num_columns >= 1.
template <class Element, class Scale>
inline void sum_scaled(const Element* matrix, int64_t num_columns, const int32_t* picked,
                       int64_t num_picked, int64_t num_ahead, float* out, Scale scale) {
  const int64_t stride = num_columns;
  const auto sum = [&](auto width, int64_t begin, int64_t columns) {
    sum_block<decltype(width)::value>(matrix + begin, stride, picked, num_picked, num_ahead, columns,
                                      out + begin, scale);
  };
  if (num_columns < 4) return sum(std::integral_constant<int, 1>(), 0, num_columns);
  if (num_columns < kLanes) return sum(std::integral_constant<int, 4>(), 0, num_columns);
  constexpr int64_t kBlock = 8 * kLanes;
  const std::integral_constant<int, kLanes> wide;
  int64_t begin = 0;
  for (; num_columns - begin > kBlock; begin += kBlock) sum(wide, begin, kBlock);
  // The rest may be narrower than a vector: then it starts further left.
  if (num_columns - begin < kLanes) begin = num_columns - kLanes;
  sum(wide, begin, num_columns - begin);
}

// out[c] = sum over i of weights[i] * matrix[picked[i], c] for c in [0, num_columns); null weights are
// 1. `picked` must be valid row numbers; each sum runs in the order of `picked`. `num_ahead`, at least
// `num_picked`, is how many of them there are to prefetch: the next sums' follow.
template <class Element>
inline void sum_rows(const Element* matrix, int64_t num_columns, const int32_t* picked,
                     const float* weights, int64_t num_picked, int64_t num_ahead, float* out) {
  const auto sum = [&](auto scale) {
    sum_scaled(matrix, num_columns, picked, num_picked, num_ahead, out, scale);
  };
  if (weights == nullptr) return sum([](int64_t, auto columns) { return columns; });
  sum([weights](int64_t i, auto columns) { return weights[i] * columns; });
}

}  // namespace multi_hot
