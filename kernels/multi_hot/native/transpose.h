// The transposed index of a batch: for each id the rows that hold it.
//
// Shapes: B rows, V num_tokens, N values, C chunks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "parallel.h"
#include "sets.h"

namespace multi_hot {

// Each chunk of consecutive rows has an index of its own over its own part of `rows`, so that two
// threads never write to the same cache line. With one index for all rows they nearly always would,
// since most ids have few rows. The caller provides the memory, so that XLA can plan it.
struct TransposedIndex {
  // How far `copy` may read beyond the end of an id's rows, and write beyond its copy.
  static constexpr int64_t kSlack = 8;

  // Rows are stored in 16 bits, relative to their chunk's first row, of which a chunk thus has up to
  // 2^16: so the index, which is written in the order of the ids, still fits a core's cache at some
  // thousand rows.
  int32_t* ends;       // [C, V]: where in `rows` the chunk's rows of an id end, the next one's begin
  int64_t num_chunks;  // C, at least 1; what is read from the index does not depend on C
  uint16_t* rows;      // [N + kSlack]: ascending within an id
  float* weights;      // [N]: of each of `rows`, where the sets have weights

  int64_t first_row(const Sets& sets, int64_t chunk) const {
    return sets.num_rows * chunk / num_chunks;
  }
};

// Fills `index`: a counting sort by id of each chunk's entries. Raises what is wrong with the sets.
template <class Pool>
void transpose(const Sets& sets, const TransposedIndex& index, Pool& pool) {
  check_splits(sets);
  const int64_t V = sets.num_tokens;
  parallel_for(pool, index.num_chunks, [&](int64_t chunk) {
    const int64_t first = index.first_row(sets, chunk), last = index.first_row(sets, chunk + 1);
    check_ids(sets, first, last);
    int32_t* cursors = index.ends + chunk * V;
    std::fill(cursors, cursors + V, 0);
    const int64_t end = sets.splits[last];
    for (int64_t i = sets.splits[first]; i < end; ++i) ++cursors[sets.values[i]];
    int32_t begin = static_cast<int32_t>(sets.splits[first]);
    for (int64_t id = 0; id < V; ++id) {
      const int32_t count = cursors[id];
      cursors[id] = begin;
      begin += count;
    }
    const auto place_entries = [&](auto has_weights) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t row_end = sets.splits[row + 1];
        for (int64_t i = sets.splits[row]; i < row_end; ++i) {
          const int32_t place = cursors[sets.values[i]]++;
          index.rows[place] = static_cast<uint16_t>(row - first);
          if constexpr (has_weights) index.weights[place] = sets.weights[i];
        }
      }
    };
    if (sets.weights != nullptr) return place_entries(std::true_type());
    place_entries(std::false_type());
  });
}

// Copies rows of a chunk, eight at a time and reading beyond the end: most ids have few rows, and a
// loop of unpredictable length costs more than what it copies. Returns the end of the copy.
inline int32_t* copy(const uint16_t* begin, const uint16_t* end, int32_t first_row, int32_t* to) {
  const int64_t count = end - begin;
  int64_t i = 0;
  do {
    for (int64_t k = 0; k < TransposedIndex::kSlack; ++k) to[i + k] = first_row + begin[i + k];
    i += TransposedIndex::kSlack;
  } while (i < count);
  return to + count;
}

// As above without repetitions: the row of a repeated id stands next to itself.
inline int32_t* copy_once(const uint16_t* begin, const uint16_t* end, int32_t first_row,
                          int32_t* to) {
  int32_t* stop = std::unique_copy(begin, end, to);
  for (; to != stop; ++to) *to += first_row;
  return stop;
}

// Copies the rows that hold an id, ascending and each once, to [B + kSlack], and unless `weights` is null
// theirs to [B], the sum where a row repeats the id. Returns the number of rows.
inline int64_t holders_of(int64_t id, const Sets& sets, const TransposedIndex& index, int32_t* rows,
                          float* weights) {
  int32_t* to = rows;
  for (int64_t chunk = 0; chunk < index.num_chunks; ++chunk) {
    const int32_t* ends = index.ends + chunk * sets.num_tokens;
    const int64_t first = index.first_row(sets, chunk), last = index.first_row(sets, chunk + 1);
    const auto first_row = static_cast<int32_t>(first);
    const int64_t begin = id > 0 ? ends[id - 1] : sets.splits[first], end = ends[id];
    if (weights != nullptr) {
      for (int64_t i = begin; i < end; ++i) {
        const int32_t row = first_row + index.rows[i];
        if (to > rows && to[-1] == row) {
          weights[to - rows - 1] += index.weights[i];
        } else {
          weights[to - rows] = index.weights[i];
          *to++ = row;
        }
      }
      continue;
    }
    // A caller may break its promise of unique rows; there is room for each row once.
    const bool each_once = sets.unique && end - begin <= last - first;
    const uint16_t *from = index.rows + begin, *until = index.rows + end;
    to = each_once ? copy(from, until, first_row, to) : copy_once(from, until, first_row, to);
  }
  return to - rows;
}

}  // namespace multi_hot
