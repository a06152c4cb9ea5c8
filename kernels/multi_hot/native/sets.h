// Ragged sets as the kernels see them, and the checks that precede the use of any id as an index.
//
// Shapes: B rows, V num_tokens, N values (capacity; nnz = row_splits[B] of them count).
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace multi_hot {

// Positions and rows are int32 in the transposed index, which is read a little over its end.
constexpr int64_t kMaxEntries = INT32_MAX - 8;

struct Sets {
  const int32_t* values;  // [N]
  int64_t num_values;     // N
  const int64_t* splits;  // [B + 1]
  int64_t num_rows;       // B
  int64_t num_tokens;     // V, at most 2^31 - 1
  bool unique;            // no row holds an id twice
  const float* weights;   // [N], which add up where a row repeats an id; null: an id counts once

  // Negative ids are large when read as unsigned, so one comparison does.
  bool in_range(int32_t id) const {
    return static_cast<uint32_t>(id) < static_cast<uint32_t>(num_tokens);
  }
};

// Raises what is wrong with the splits. Call it before reading any id.
inline void check_splits(const Sets& sets) {
  const int64_t* end = sets.splits + sets.num_rows;
  if (*sets.splits != 0 || !std::is_sorted(sets.splits, end + 1) || *end > sets.num_values) {
    throw std::invalid_argument(
        "row_splits must start at 0, never decrease and end at or before the number of values, " +
        std::to_string(sets.num_values));
  }
  if (*end > kMaxEntries || sets.num_rows > kMaxEntries) {
    throw std::invalid_argument("a batch may hold up to " + std::to_string(kMaxEntries) +
                                " rows and token ids");
  }
}

// Raises the batch's first id that is out of range, if rows [first, last) hold one. A pass checks each
// block of rows just before it uses their ids: its threads share the work, and the ids are in the cache
// afterwards.
inline void check_ids(const Sets& sets, int64_t first, int64_t last) {
  // A maximum instead of a search: the compiler turns it into vectors.
  uint32_t largest = 0;
  const int64_t end = sets.splits[last];
  for (int64_t i = sets.splits[first]; i < end; ++i) {
    largest = std::max(largest, static_cast<uint32_t>(sets.values[i]));
  }
  if (sets.splits[first] == end || sets.in_range(static_cast<int32_t>(largest))) return;
  int64_t position = 0, row = 0;
  while (sets.in_range(sets.values[position])) ++position;
  while (sets.splits[row + 1] <= position) ++row;
  throw std::invalid_argument("row " + std::to_string(row) + " holds token id " +
                              std::to_string(sets.values[position]) +
                              " but ids must be in [0, " + std::to_string(sets.num_tokens) + ")");
}

}  // namespace multi_hot
