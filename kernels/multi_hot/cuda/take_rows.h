// Copies rows of sets that are resident on the device into a batch.
#pragma once

#include "device.h"

namespace multi_hot {

// Where a resident row begins, and its length; rows and splits that do not exist are replaced by the
// nearest.
__device__ inline long long resident_row(const TakeArguments& a, int row, long long* length) {
  row = row < 0 ? 0 : row < a.num_resident ? row : a.num_resident - 1;
  long long ends[2];
  for (int i = 0; i < 2; ++i) {
    const long long end = a.wide_splits ? static_cast<const long long*>(a.splits)[row + i]
                                        : static_cast<const int*>(a.splits)[row + i];
    ends[i] = end < 0 ? 0 : end < a.num_values ? end : a.num_values;
  }
  *length = ends[1] < ends[0] ? 0 : ends[1] - ends[0];
  return ends[0];
}

// The batch's splits, by one block: each thread adds up rows that follow one another.
__device__ inline void take_splits(const TakeArguments& a) {
  __shared__ long long totals[kSplitThreads];
  const int thread = threadIdx.x;
  const int share = (a.num_rows + kSplitThreads - 1) / kSplitThreads;
  const int begin = thread * share;
  const int end = a.num_rows - begin < share ? a.num_rows : begin + share;
  long long total = 0, length;
  for (int i = begin; i < end; ++i) {
    resident_row(a, a.rows[i], &length);
    total += length;
  }
  totals[thread] = total;
  __syncthreads();
  for (int step = 1; step < kSplitThreads; step *= 2) {
    const long long sum = totals[thread] + (thread >= step ? totals[thread - step] : 0);
    __syncthreads();
    totals[thread] = sum;
    __syncthreads();
  }
  long long place = totals[thread] - total;
  if (thread == 0) a.row_splits[0] = 0;
  for (int i = begin; i < end; ++i) {
    resident_row(a, a.rows[i], &length);
    place += length;
    a.row_splits[i + 1] = place < 0x7fffffff ? static_cast<int>(place) : 0x7fffffff;
  }
}

// The batch's ids and weights, a warp per row, and zeros behind them.
__device__ inline void take_values(const TakeArguments& a) {
  const long long num_threads = static_cast<long long>(gridDim.x) * kTakeThreads;
  const long long thread = static_cast<long long>(blockIdx.x) * kTakeThreads + threadIdx.x;
  for (long long i = thread / 32; i < a.num_rows; i += num_threads / 32) {
    long long length;
    const long long from = resident_row(a, a.rows[i], &length);
    const long long to = a.row_splits[i];
    if (length > a.capacity - to) length = a.capacity - to;
    for (long long k = lane(); k < length; k += 32) {
      a.taken[to + k] = a.wide_ids ? static_cast<int>(static_cast<const unsigned*>(a.values)[from + k])
                                   : static_cast<const unsigned short*>(a.values)[from + k];
      if (a.weights != nullptr) a.taken_weights[to + k] = a.weights[from + k];
    }
  }
  for (long long k = a.row_splits[a.num_rows] + thread; k < a.capacity; k += num_threads) {
    a.taken[k] = 0;
    if (a.weights != nullptr) a.taken_weights[k] = 0.0f;
  }
}

}  // namespace multi_hot
