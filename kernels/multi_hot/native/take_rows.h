// Copies rows of resident sets into a batch.
//
// Shapes: R rows of the resident sets, M their ids, B rows of the batch, C its capacity.
#pragma once

#include <cstdint>
#include <string>

#include "parallel.h"
#include "sets.h"

namespace multi_hot {

// Rows of a block: some thousand ids, so that handing a block to a thread costs little.
constexpr int64_t kRowsPerBlock = 32;
// How many rows ahead ids are prefetched, and how many bytes: rows lie anywhere in memory, and the
// processor's own prefetcher only follows a row that it has started.
constexpr int64_t kRowsAhead = 4;
constexpr int64_t kBytesAhead = 256;

template <class Id>
struct ResidentSets {
  const Id* values;    // [M]
  int64_t num_values;  // M
  Splits splits;       // [R + 1]
  int64_t num_rows;    // R
};

// Writes the batch's row_splits [B + 1]; returns what is wrong, or an empty string. Checks all that
// `copy_rows` relies on, including each split that it reads.
template <class Id>
std::string plan_rows(const ResidentSets<Id>& sets, const int32_t* rows, int64_t num_rows,
                      int64_t capacity, int32_t* row_splits) {
  const auto number = [](int64_t n) { return std::to_string(n); };
  int64_t end = 0;
  row_splits[0] = 0;
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t row = rows[i];
    if (row < 0 || row >= sets.num_rows) {
      return "row " + number(i) + " of the batch is row " + number(row) +
             " of the resident sets, which hold " + number(sets.num_rows);
    }
    const int64_t start = sets.splits[row], stop = sets.splits[row + 1];
    if (start < 0 || stop < start || stop > sets.num_values) {
      return "row " + number(row) + " of the resident sets goes from " + number(start) + " to " +
             number(stop) + " of " + number(sets.num_values) + " values";
    }
    end += stop - start;
    if (end > capacity) {
      return "the batch holds more ids than its capacity, " + number(capacity) + ", from row " +
             number(i) + " on";
    }
    row_splits[i + 1] = static_cast<int32_t>(end);
  }
  return "";
}

// Copies the ids of the rows to values [C], and zeros behind them.
template <class Id>
void copy_rows(const ResidentSets<Id>& sets, const int32_t* rows, int64_t num_rows,
               int64_t capacity, const int32_t* row_splits, int32_t* values, Workers& workers) {
  const int64_t num_blocks = (num_rows + kRowsPerBlock - 1) / kRowsPerBlock;
  parallel_for(workers, num_blocks, [=](int64_t block) {
    const int64_t first = block * kRowsPerBlock;
    const int64_t last = first + kRowsPerBlock < num_rows ? first + kRowsPerBlock : num_rows;
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
    }
  });
  for (int64_t k = row_splits[num_rows]; k < capacity; ++k) values[k] = 0;
}

}  // namespace multi_hot
