// dW[j, :] = sum over rows b that hold j of dy[b, :], over entries that are sorted by id.
//
// Every warp adds the same number of entries, whatever ids they have. A frequent id is thus shared by
// many warps, whose partial sums are added in a fixed order.
#pragma once

#include "forward.h"

namespace multi_hot {

// The first pass: sums of runs within tiles of the sorted entries.
template <class T, int kColumns>
__device__ void sum_tiles(const SumArguments& a) {
  const int V = a.sets.num_tokens;
  const int *keys = a.index.keys, *rows = a.index.rows, *positions = a.index.positions;
  if (*a.index.faults != 0) {  // then neither rows nor keys can be relied on, and the whole gradient is NaN
    const long long num_gradients = static_cast<long long>(V) * a.units;
    const long long num_threads = static_cast<long long>(gridDim.x) * gridDim.y * blockDim.x;
    const long long block = static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x;
    for (long long i = block * blockDim.x + threadIdx.x; i < num_gradients; i += num_threads) {
      narrow(not_a_number(), static_cast<T*>(a.dw) + i);
    }
    return;
  }
  const int tile = static_cast<int>(blockIdx.x) * kSumWarps + warp();
  if (tile >= a.num_tiles) return;
  const int column = static_cast<int>(blockIdx.y) * 32 * kColumns + lane();
  const bool weighted = a.sets.weights != nullptr;
  T* const dw = static_cast<T*>(a.dw);
  const int N = a.sets.num_values;
  const int begin = tile * a.tile;
  const int end = N - begin < a.tile ? N : begin + a.tile;
  int id = keys[begin];
  bool began_earlier = begin > 0 && keys[begin - 1] == id;
  float sums[kColumns] = {};
#pragma unroll 1
  for (int start = begin; start < end && id < V; start += 32) {
    const int entry = start + lane();
    int key = V, row = kNone;
    float weight = 0.0f;
    if (entry < end) key = keys[entry];
    if (key < V) {
      row = rows[positions[entry]];
      if (weighted) {
        weight = a.sets.weights[positions[entry]];
      } else if (entry > 0 && keys[entry - 1] == key && rows[positions[entry - 1]] == row) {
        row = kNone;  // the row holds the id twice
      }
    }
    constexpr int kAtOnce = kRowsAtOnce<kColumns>;
#pragma unroll 1
    for (int first = 0; first < 32 && start + first < end && id < V; first += kAtOnce) {
      float values[kAtOnce][kColumns];
      load_rows(static_cast<const T*>(a.dy), a.units, column, row, first, values);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int own = __shfl_sync(kAllLanes, key, first + i);
        const float own_weight = weighted ? __shfl_sync(kAllLanes, weight, first + i) : 1.0f;
        if (start + first + i >= end) continue;
        if (own != id) {
          if (began_earlier) write_row(a.heads, a.units, column, tile, sums);
          else if (id < V) write_row(dw, a.units, column, id, sums);
          began_earlier = false;
          id = own;
#pragma unroll
          for (int c = 0; c < kColumns; ++c) sums[c] = 0.0f;
        }
#pragma unroll
        for (int c = 0; c < kColumns; ++c) sums[c] += own_weight * values[i][c];
      }
    }
  }
  if (id >= V) return;
  if (began_earlier) write_row(a.heads, a.units, column, tile, sums);
  else if (end < N && keys[end] == id) write_row(a.tails, a.units, column, tile, sums);
  else write_row(dw, a.units, column, id, sums);
}

// The second pass: sums of runs that cross tiles, each by the warp of the tile where it begins.
template <class T, int kColumns>
__device__ void sum_runs(const SumArguments& a) {
  if (*a.index.faults != 0) return;
  const int tile = static_cast<int>(blockIdx.x) * kSumWarps + warp();
  if (tile + 1 >= a.num_tiles) return;
  const int column = static_cast<int>(blockIdx.y) * 32 * kColumns + lane();
  const int begin = tile * a.tile, end = begin + a.tile;
  const int* keys = a.index.keys;
  const int id = keys[end - 1];
  if (id >= a.sets.num_tokens || keys[end] != id) return;
  if (begin > 0 && keys[begin - 1] == id) return;  // it began earlier
  float sums[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const bool wanted = column + 32 * c < a.units;
    const long long place = static_cast<long long>(tile) * a.units + column + 32 * c;
    sums[c] = wanted ? a.tails[place] : 0.0f;
  }
#pragma unroll 1
  for (int first = tile + 1; first < a.num_tiles; first += 32) {
    const int other = first + lane();
    const bool holds = other < a.num_tiles && keys[static_cast<long long>(other) * a.tile] == id;
    const unsigned run = __ballot_sync(kAllLanes, holds);
    const int length = run == kAllLanes ? 32 : __ffs(~run) - 1;
    add_rows(a.heads, a.units, column,
             lane() < length ? other : kNone, 0.0f, false, length, sums);
    if (length < 32) break;
  }
  write_row(static_cast<T*>(a.dw), a.units, column, id, sums);
}

}  // namespace multi_hot
