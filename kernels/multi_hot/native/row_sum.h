// The loop that both passes consist of: the sum of some rows of a matrix.
//
// Forward: y[b] is the sum of the table's rows over the ids of row b. Backward: dW[j] is the sum of
// dy's rows over the rows that hold id j.
#pragma once

#include <cstdint>
#include <type_traits>

#include "vectors.h"

namespace multi_hot {

constexpr int kCacheLineBytes = 64;
// How many rows ahead to prefetch: a table lies in the second or third level of cache.
constexpr int64_t kPrefetchRows = 12;

// out[c] = sum over i of matrix[picked[i], c], for K vectors of W columns: the first K - 1 from
// column 0 on, the last at column `last`, where it may overlap the one before. Overlapping columns
// are computed twice with the same result, which avoids masks and a scalar tail.
template <class Format, int W, int K>
MULTI_HOT_DEVICE inline void sum_columns(const typename Format::Storage* matrix, int64_t stride,
                                         const int32_t* picked, int64_t num_picked, int64_t last,
                                         typename Format::Storage* out) {
  // K is a constant and the loops over it are unrolled, so the sums stay in registers. Without the
  // pragmas GCC keeps this array in memory, which makes the whole kernel three times slower.
  typename Vectors<W>::Floats sums[K] = {};
  for (int64_t i = 0; i < num_picked; ++i) {
    const typename Format::Storage* row = matrix + picked[i] * stride;
#ifndef __CUDA_ARCH__
    if (i + kPrefetchRows < num_picked) {
      const auto* ahead = reinterpret_cast<const char*>(matrix + picked[i + kPrefetchRows] * stride);
      constexpr int kBytes = K * W * sizeof(typename Format::Storage);
#pragma GCC unroll 8
      for (int byte = 0; byte < kBytes; byte += kCacheLineBytes) __builtin_prefetch(ahead + byte);
    }
#endif
#pragma GCC unroll 8
    for (int k = 0; k + 1 < K; ++k) sums[k] += load<Format, W>(row + k * W);
    sums[K - 1] += load<Format, W>(row + last);
  }
#pragma GCC unroll 8
  for (int k = 0; k + 1 < K; ++k) store<Format, W>(out + k * W, sums[k]);
  store<Format, W>(out + last, sums[K - 1]);
}

// As above for `num_columns` columns, W <= num_columns <= 8 W.
template <class Format, int W>
void sum_block(const typename Format::Storage* matrix, int64_t stride, const int32_t* picked,
               int64_t num_picked, int64_t num_columns, typename Format::Storage* out) {
  const int64_t last = num_columns - W;
  switch ((num_columns + W - 1) / W) {
    case 1: return sum_columns<Format, W, 1>(matrix, stride, picked, num_picked, last, out);
    case 2: return sum_columns<Format, W, 2>(matrix, stride, picked, num_picked, last, out);
    case 3: return sum_columns<Format, W, 3>(matrix, stride, picked, num_picked, last, out);
    case 4: return sum_columns<Format, W, 4>(matrix, stride, picked, num_picked, last, out);
    case 5: return sum_columns<Format, W, 5>(matrix, stride, picked, num_picked, last, out);
    case 6: return sum_columns<Format, W, 6>(matrix, stride, picked, num_picked, last, out);
    case 7: return sum_columns<Format, W, 7>(matrix, stride, picked, num_picked, last, out);
    default: return sum_columns<Format, W, 8>(matrix, stride, picked, num_picked, last, out);
  }
}

// out[c] = sum over i of matrix[picked[i], c] for c in [0, num_columns), any num_columns >= 1.
// `picked` must be valid row numbers; sums are float32, in the order of `picked`.
template <class Format>
void sum_rows(const typename Format::Storage* matrix, int64_t num_columns, const int32_t* picked,
              int64_t num_picked, typename Format::Storage* out) {
  const int64_t stride = num_columns;
  const auto sum = [&](auto width, int64_t begin, int64_t columns) {
    sum_block<Format, decltype(width)::value>(matrix + begin, stride, picked, num_picked, columns,
                                              out + begin);
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

}  // namespace multi_hot
