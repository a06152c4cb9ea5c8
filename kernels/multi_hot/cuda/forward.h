// y[b, :] = sum over j in set(row b) of table[j, :], by a warp for each row and tile of columns.
//
// The order of a sum is that of the row's ids. A row with a wrong id or wrong splits is NaN: an error
// would have to be waited for.
#pragma once

#include "device.h"

namespace multi_hot {

// The arguments of the batch that counts.
__device__ inline ForwardArguments of_step(ForwardArguments a) {
  a.sets = batch_of(a.sets, step_of(a.sets));
  return a;
}

constexpr int kNone = -1;

// Loads that are under way together, of a lane.
template <int kColumns>
constexpr int kRowsAtOnce = 16 / kColumns;

// Reads the rows of `matrix` that the lanes from `first` on name (kNone: zeros). `column` is the
// lane's first.
template <class T, int kColumns>
__device__ void load_rows(const T* matrix, int units, int column, int own_row, int first,
                          float (&values)[kRowsAtOnce<kColumns>][kColumns]) {
#pragma unroll
  for (int i = 0; i < kRowsAtOnce<kColumns>; ++i) {
    const int row = __shfl_sync(kAllLanes, own_row, first + i);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const bool wanted = row != kNone && column + 32 * c < units;
      const long long place = static_cast<long long>(row) * units + column + 32 * c;
      values[i][c] = wanted ? widen(matrix[place]) : 0.0f;
    }
  }
}

// Adds to `sums` the rows of `matrix` that the first `count` lanes name, times their weights, in the
// order of the lanes.
template <class T, int kColumns>
__device__ void add_rows(const T* matrix, int units, int column, int own_row, float own_weight,
                         bool weighted, int count, float (&sums)[kColumns]) {
#pragma unroll 1
  for (int first = 0; first < count; first += kRowsAtOnce<kColumns>) {
    float values[kRowsAtOnce<kColumns>][kColumns];
    load_rows(matrix, units, column, own_row, first, values);
#pragma unroll
    for (int i = 0; i < kRowsAtOnce<kColumns>; ++i) {
      const float weight = weighted ? __shfl_sync(kAllLanes, own_weight, first + i) : 1.0f;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sums[c] += weight * values[i][c];
    }
  }
}

// Writes a row of `matrix`, as far as this lane has its columns.
template <class T, int kColumns>
__device__ void write_row(T* matrix, int units, int column, int row, const float (&sums)[kColumns]) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const long long place = static_cast<long long>(row) * units + column + 32 * c;
    if (column + 32 * c < units) narrow(sums[c], matrix + place);
  }
}

template <class T, int kColumns>
__device__ void forward(const ForwardArguments& a) {
  const int row = static_cast<int>(blockIdx.x) * kForwardWarps + warp();
  if (row >= a.sets.num_rows) return;  // no block-wide barrier follows
  const int column = static_cast<int>(blockIdx.y) * 32 * kColumns + lane();
  const bool weighted = a.sets.weights != nullptr;
  long long begin, end;
  bool wrong = !bounds_of(a.sets, row, &begin, &end);
  if (wrong) end = begin;
  float sums[kColumns] = {};
#pragma unroll 1
  for (long long start = begin; start < end; start += 32) {
    const long long position = start + lane();
    int id = kNone;
    float weight = 0.0f;
    bool out_of_range = false;
    if (position < end) {
      id = id_at(a.sets, position);
      out_of_range = id == a.sets.num_tokens;
      if (out_of_range) id = kNone;
      else if (weighted) weight = a.sets.weights[position];
    }
    wrong |= __ballot_sync(kAllLanes, out_of_range) != 0;
    const int count = end - start < 32 ? static_cast<int>(end - start) : 32;
    add_rows(static_cast<const T*>(a.table), a.units, column, id, weight, weighted, count, sums);
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) sums[c] = wrong ? not_a_number() : sums[c];
  write_row(static_cast<T*>(a.y), a.units, column, row, sums);
}

}  // namespace multi_hot
