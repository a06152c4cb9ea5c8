// Optimizers that change the touched rows in place, a warp for each row.
#pragma once

#include "device.h"

namespace multi_hot {

// The sum of the numbers of all lanes, which each of them gets.
__device__ inline float sum_of_lanes(float number) {
  for (int other = 16; other > 0; other /= 2) {
    number += __shfl_sync(kAllLanes, number, lane() ^ other);
  }
  return number;
}

// The lanes of a warp that update a row together; see rules.h.
struct Warp {
  static constexpr int kCount = 32;
  __device__ static int first() { return lane(); }
  __device__ static float of_first(float number) { return __shfl_sync(kAllLanes, number, 0); }
  __device__ static void join() { __syncwarp(); }
  __device__ static float sum_of_squares(const float* numbers, int count) {
    float squares = 0.0f;
    for (int c = lane(); c < count; c += 32) squares += numbers[c] * numbers[c];
    return sum_of_lanes(squares);
  }
  // Adds to sums[j] the rates of the `count` steps after `after`, times terms[j, i].
  __device__ static void add_up(const CatchUp& a, Int64 after, int count, const float* terms,
                                float (&sums)[kTerms]) {
    const int last = a.table.num_rates - 1;  // R is a power of two
    const int from = static_cast<int>(after) & last;
#pragma unroll 1
    for (int k = lane(); k < count; k += 32) {
      const float rate = a.table.rates[(from + k) & last];  // the rates are a ring
#pragma unroll
      for (int j = 0; j < kTerms; ++j) sums[j] += rate * terms[j * a.length + k];
    }
#pragma unroll
    for (int j = 0; j < kTerms; ++j) sums[j] = sum_of_lanes(sums[j]);
  }
};

// Calls take(i) for each i below `num`, by one of all warps.
template <class Take>
__device__ void for_each(Int64 num, Take take) {
  const Int64 num_warps = Int64{gridDim.x} * kUpdateWarps;
  for (Int64 i = Int64{blockIdx.x} * kUpdateWarps + warp(); i < num; i += num_warps) take(i);
}

template <class T>
__device__ void update_rows(const UpdateArguments& a) {
  Update update = a.update;
  update.step = *a.step;
  update.rate = a.numbers[0];
  update.factor = a.numbers[1];
  if (update.step == 0) return;
  if (blockIdx.x == 0 && threadIdx.x == 0) keep_rate(update);
  for_each(*a.num, [&](Int64 slot) {
    update_row<Warp, T>(update, a.ids[slot], a.gradients + slot * update.table.units);
  });
}

__device__ inline void catch_up(const CatchUpArguments& a) {
  CatchUp row = a.row;
  row.step = *a.step;
  if (row.step == 0) return;  // the table is frozen
  const bool whole = row.is_of_all();
  for_each(whole ? row.table.num_tokens : *a.num,
           [&](Int64 i) { catch_up_row<Warp>(row, whole ? i : a.ids[i]); });
}

}  // namespace multi_hot
