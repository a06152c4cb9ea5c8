// Copies rows of resident sets into a batch.
//
// Shapes: R rows of the resident sets, M their ids, B rows of the batch, C its capacity.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "parallel.h"

namespace multi_hot {

// Rows of a block: some thousand ids, so that handing a block to a thread costs little.
constexpr int64_t kRowsPerBlock = 32;
// How many rows ahead ids are prefetched, and how many bytes: rows lie anywhere in memory, and the
// processor's own prefetcher only follows a row that it has started.
constexpr int64_t kRowsAhead = 4;
constexpr int64_t kBytesAhead = 256;

template <class Id>
struct ResidentSets {
  const Id* values;       // [M]
  int64_t num_values;     // M
  const int64_t* splits;  // [R + 1]
  int64_t num_rows;       // R
  const float* weights;   // [M], where the batch is to have weights
};

// Writes the batch's row_splits [B + 1], its values [C] and zeros behind them, and likewise its
// weights [C] unless that is null. Raises what is wrong; only the splits of the rows that it takes are
// read and checked.
template <class Id, class Pool>
void take_rows(const ResidentSets<Id>& sets, const int32_t* rows, int64_t num_rows, int64_t capacity,
               int32_t* row_splits, int32_t* values, float* weights, Pool& pool) {
  int64_t total = 0;
  row_splits[0] = 0;
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t row = rows[i];
    if (row < 0 || row >= sets.num_rows) {
      throw std::invalid_argument(
          "row " + std::to_string(i) + " of the batch is row " + std::to_string(row) +
          " of the resident sets, which hold " + std::to_string(sets.num_rows));
    }
    const int64_t start = sets.splits[row], stop = sets.splits[row + 1];
    if (start < 0 || stop < start || stop > sets.num_values) {
      throw std::invalid_argument("row_splits of the resident sets are wrong at row " +
                                  std::to_string(row));
    }
    total += stop - start;
    if (total > capacity) {
      throw std::invalid_argument("the batch holds more ids than its capacity, " +
                                  std::to_string(capacity));
    }
    row_splits[i + 1] = static_cast<int32_t>(total);
  }
  const int64_t num_blocks = (num_rows + kRowsPerBlock - 1) / kRowsPerBlock;
  parallel_for(pool, num_blocks, [=](int64_t block) {
    const int64_t first = block * kRowsPerBlock, last = std::min(first + kRowsPerBlock, num_rows);
    for (int64_t i = first; i < last; ++i) {
      if (i + kRowsAhead < last) {
        const auto* ahead =
            reinterpret_cast<const char*>(sets.values + sets.splits[rows[i + kRowsAhead]]);
        // Prefetching beyond the end of the array does nothing.
        for (int64_t byte = 0; byte < kBytesAhead; byte += 64) __builtin_prefetch(ahead + byte);
      }
      const Id* from = sets.values + sets.splits[rows[i]];
      int32_t* to = values + row_splits[i];
      const int64_t length = row_splits[i + 1] - row_splits[i];
      for (int64_t k = 0; k < length; ++k) to[k] = static_cast<int32_t>(from[k]);
      if (weights != nullptr) {
        std::copy_n(sets.weights + sets.splits[rows[i]], length, weights + row_splits[i]);
      }
    }
  });
  std::fill(values + total, values + capacity, 0);
  if (weights != nullptr) std::fill(weights + total, weights + capacity, 0.0f);
}

}  // namespace multi_hot
