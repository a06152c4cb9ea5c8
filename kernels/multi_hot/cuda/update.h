// Optimizers that change the touched rows of a table in place, a warp for each row, and the sum of
// squares of their gradients.
#pragma once

#include "../native/rules.h"
#include "device.h"

namespace multi_hot {

__device__ inline void subtract(float change, unsigned, int, Float* from) { from->value -= change; }
__device__ inline void subtract(float change, unsigned seed, int column, BFloat16* from) {
  const float value = widen(*from) - change;
  const unsigned chance = scrambled(seed + static_cast<unsigned>(column)) & 0xffffu;
  // A GPU's NaN is 0x7fffffff, to which nothing may be added.
  from->bits = value != value ? 0x7fc0u : (__float_as_uint(value) + chance) >> 16;
}

template <class T>
__device__ void update_rows(const UpdateArguments& a) {
  if (*a.active == 0) return;
  const int num = *a.num, units = a.units;
  const float rate = a.scalars[0], grow_m = a.scalars[1], grow_v = a.scalars[2];
  const float epsilon = a.scalars[3], factor = a.scalars[4];
  const long long step = *a.step;
  if (a.kind == kExactAdam && blockIdx.x == 0 && threadIdx.x == 0) {
    a.rates[(step - 1) & (a.num_rates - 1)] = rate;
  }
  const long long num_warps = static_cast<long long>(gridDim.x) * kUpdateWarps;
  for (long long slot = static_cast<long long>(blockIdx.x) * kUpdateWarps + warp(); slot < num;
       slot += num_warps) {
    const int id = a.ids[slot];
    const float* const gradient = a.gradients + slot * units;
    const long long place = static_cast<long long>(id) * units;
    T* const row = static_cast<T*>(a.table) + place;
    const unsigned seed = rounding_seed(step, id);
    if (a.kind == kLazyAdam || a.kind == kExactAdam) {
      float* const first = a.slots[0] + place;
      float* const second = a.slots[1] + place;
#pragma unroll 1
      for (int c = lane(); c < units; c += 32) {
        float m = first[c], v = second[c];
        const float change = adam(factor * gradient[c], m, v, rate, grow_m, grow_v, epsilon);
        first[c] = m;
        second[c] = v;
        subtract(change, seed, c, row + c);
      }
      if (a.kind == kExactAdam && lane() == 0) a.last[id] = step;
      continue;
    }
    float own_rate = rate * factor;
    if (a.kind == kRowAdagrad) {
      float squares = 0.0f;
      for (int c = lane(); c < units; c += 32) squares += gradient[c] * gradient[c];
      for (int other = 16; other > 0; other /= 2) {
        squares += __shfl_sync(kAllLanes, squares, lane() ^ other);
      }
      if (lane() == 0) {
        own_rate = adagrad_rate(squares, units, factor, a.slots[0][id], rate, epsilon);
      }
      own_rate = __shfl_sync(kAllLanes, own_rate, 0);
    }
#pragma unroll 1
    for (int c = lane(); c < units; c += 32) subtract(own_rate * gradient[c], seed, c, row + c);
  }
}

// A warp for each row: its lanes add up the rates of the missed steps, then move their columns.
__device__ inline void catch_up(const CatchUpArguments& a) {
  if (*a.active == 0) return;
  const long long step = *a.step;
  // No row may miss more steps than there are rates.
  const bool whole = *a.all != 0 || (step & (a.num_rates - 1)) == 0;
  const long long num = whole ? a.num_tokens : *a.num;
  const int units = a.units;
  const long long num_warps = static_cast<long long>(gridDim.x) * kUpdateWarps;
  for (long long i = static_cast<long long>(blockIdx.x) * kUpdateWarps + warp(); i < num;
       i += num_warps) {
    const long long id = whole ? i : a.ids[i];
    const long long before = a.last[id], missed = step - before;
    if (before == 0 || missed <= 0) continue;
    float* const row = a.table + id * units;
    float* const first = a.moments[0] + id * units;
    float* const second = a.moments[1] + id * units;
    for (int segment = 0; segment < a.num_segments; ++segment) {
      const int begin = segment * a.length;
      if (missed <= begin) break;
      const int count = missed - begin < a.length ? static_cast<int>(missed) - begin : a.length;
      const float* const terms = a.terms + static_cast<long long>(segment) * kTerms * a.length;
      const int from = static_cast<int>(before + begin) & (a.num_rates - 1);
      float sums[kTerms] = {};
#pragma unroll 1
      for (int k = lane(); k < count; k += 32) {
        const int place = from + k;  // the rates are a ring
        const float rate = a.rates[place < a.num_rates ? place : place - a.num_rates];
#pragma unroll
        for (int j = 0; j < kTerms; ++j) sums[j] += rate * terms[j * a.length + k];
      }
#pragma unroll
      for (int j = 0; j < kTerms; ++j) {
        for (int other = 16; other > 0; other /= 2) {
          sums[j] += __shfl_sync(kAllLanes, sums[j], lane() ^ other);
        }
      }
      const float center = a.centers[segment];
#pragma unroll 1
      for (int c = lane(); c < units; c += 32) {
        row[c] -= caught_up(first[c], second[c], center, a.epsilon, sums);
      }
    }
    for (int c = lane(); c < units; c += 32) {
      first[c] *= a.decays[missed];
      second[c] *= a.decays[a.num_rates + 1 + missed];
    }
    __syncwarp();  // all lanes have read when the row was seen last
    if (lane() == 0) a.last[id] = step;
  }
}

// The sum of a block's values, in thread 0; a tree, so that the order is fixed.
__device__ inline float sum_of_block(float value, float* sums) {
  const int thread = threadIdx.x;
  sums[thread] = value;
  for (int half = kSquareThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  return thread == 0 ? sums[0] : 0.0f;
}

__device__ inline void square_rows(const SquareArguments& a) {
  __shared__ float sums[kSquareThreads];
  const long long size = static_cast<long long>(*a.num) * a.units;
  float squares = 0.0f;
  for (long long i = static_cast<long long>(blockIdx.x) * kSquareThreads + threadIdx.x; i < size;
       i += static_cast<long long>(gridDim.x) * kSquareThreads) {
    squares += a.matrix[i] * a.matrix[i];
  }
  squares = sum_of_block(squares, sums);
  if (threadIdx.x == 0) a.partial[blockIdx.x] = squares;
}

__device__ inline void sum_squares(const SquareArguments& a) {
  static_assert(kSquareBlocks == kSquareThreads, "a thread for each partial sum");
  __shared__ float sums[kSquareThreads];
  const bool exists = static_cast<int>(threadIdx.x) < a.num_partial;
  const float squares = sum_of_block(exists ? a.partial[threadIdx.x] : 0.0f, sums);
  if (threadIdx.x == 0) a.squares[0] = squares;
}

}  // namespace multi_hot
