// Ragged sets as the kernels see them, and the checks that precede the use of any id as an index.
//
// Shapes: B rows, V num_tokens, N values (capacity; nnz = row_splits[B] of them count).
// The functions marked MULTI_HOT_DEVICE are the indexing that a CUDA translation unit shares.
#pragma once

#include <cstdint>
#include <string>

#ifdef __CUDACC__
#define MULTI_HOT_DEVICE __host__ __device__
#else
#define MULTI_HOT_DEVICE
#endif

namespace multi_hot {

// row_splits, of either integer width: it is read once per row, so the branch costs nothing.
struct Splits {
  const void* data;
  bool is_int64;

  MULTI_HOT_DEVICE int64_t operator[](int64_t i) const {
    return is_int64 ? static_cast<const int64_t*>(data)[i]
                    : static_cast<const int32_t*>(data)[i];
  }
};

// Positions and rows are int32 in the transposed index, which is read a little over its end.
constexpr int64_t kMaxEntries = INT32_MAX - 8;

struct Sets {
  const int32_t* values;  // [N]
  int64_t num_values;     // N
  Splits splits;          // [B + 1]
  int64_t num_rows;       // B
  int64_t num_tokens;     // V, at most 2^31 - 1
  bool unique;            // no row holds an id twice

  MULTI_HOT_DEVICE int64_t nnz() const { return splits[num_rows]; }

  // Negative ids are large when read as unsigned, so one comparison does.
  MULTI_HOT_DEVICE bool in_range(int32_t id) const {
    return static_cast<uint32_t>(id) < static_cast<uint32_t>(num_tokens);
  }
};

// Returns what is wrong with the splits, or an empty string. Call it before reading any id.
inline std::string find_split_fault(const Sets& sets) {
  const auto number = [](int64_t n) { return std::to_string(n); };
  if (sets.splits[0] != 0) return "row_splits must start at 0; got " + number(sets.splits[0]);
  for (int64_t row = 0; row < sets.num_rows; ++row) {
    if (sets.splits[row + 1] < sets.splits[row]) {
      return "row_splits must never decrease; row " + number(row) + " goes from " +
             number(sets.splits[row]) + " to " + number(sets.splits[row + 1]);
    }
  }
  const int64_t nnz = sets.nnz();
  if (nnz > sets.num_values) {
    return "row_splits must end at or before the number of values, " + number(sets.num_values) +
           "; got " + number(nnz);
  }
  if (nnz > kMaxEntries || sets.num_rows > kMaxEntries) {
    return "a batch may hold up to " + number(kMaxEntries) + " ids and rows; got " + number(nnz) +
           " and " + number(sets.num_rows);
  }
  return "";
}

// Whether all ids of rows [first, last) are in range. A pass checks each block of rows just before
// it uses their ids: its threads share the work, and the ids are in the cache afterwards.
inline bool ids_in_range(const Sets& sets, int64_t first, int64_t last) {
  // A maximum instead of a search: the compiler turns it into vectors.
  uint32_t largest = 0;
  const int64_t end = sets.splits[last];
  for (int64_t i = sets.splits[first]; i < end; ++i) {
    const uint32_t id = static_cast<uint32_t>(sets.values[i]);
    largest = id > largest ? id : largest;
  }
  return sets.splits[first] == end || sets.in_range(static_cast<int32_t>(largest));
}

// Describes the first id that is out of range; there must be one.
inline std::string describe_id_fault(const Sets& sets) {
  const auto number = [](int64_t n) { return std::to_string(n); };
  int64_t position = 0, row = 0;
  while (sets.in_range(sets.values[position])) ++position;
  while (sets.splits[row + 1] <= position) ++row;
  return "row " + number(row) + " holds token id " + number(sets.values[position]) +
         " but ids must be in [0, " + number(sets.num_tokens) + ")";
}

}  // namespace multi_hot
