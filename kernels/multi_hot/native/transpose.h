// The transposed index of a batch: for each id the rows that hold it.
//
// Shapes: B rows, V num_tokens, N values, C chunks.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "parallel.h"
#include "sets.h"

namespace multi_hot {

// Each chunk of consecutive rows has an index of its own over its own part of `rows`, so that two
// threads never write to the same cache line. With one index for all rows they nearly always would,
// since most ids have few rows. The caller provides the memory, so that XLA can plan it.
struct TransposedIndex {
  // How far HoldersOfIds::copy may read beyond the end of an id's rows.
  static constexpr int64_t kSlack = 8;

  // Rows are stored in 16 bits, relative to their chunk's first row: so the index, which is written
  // in the order of the ids, still fits a core's cache at some thousand rows.
  static constexpr int64_t kMaxChunkRows = 1 << 16;

  int32_t* ends;       // [C, V]: where in `rows` the chunk's rows of an id end, the next one's begin
  int64_t num_chunks;  // C, at least 1; what is read from the index does not depend on C
  uint16_t* rows;      // [N + kSlack]: ascending within an id

  int64_t first_row(const Sets& sets, int64_t chunk) const {
    return sets.num_rows * chunk / num_chunks;
  }

  // Whether there are enough chunks for a batch of this many rows.
  bool admits(int64_t num_rows) const { return num_rows <= kMaxChunkRows * num_chunks; }
};

// Fills `index`: a counting sort by id of each chunk's entries. Returns what is wrong with the
// sets, or an empty string; after a fault the index must not be read.
template <class Pool>
std::string transpose(const Sets& sets, const TransposedIndex& index, Pool& pool) {
  if (std::string fault = find_split_fault(sets); !fault.empty()) return fault;
  const int64_t V = sets.num_tokens;
  std::atomic<bool> in_range{true};
  parallel_for(pool, index.num_chunks, [&](int64_t chunk) {
    const int64_t first = index.first_row(sets, chunk), last = index.first_row(sets, chunk + 1);
    if (!ids_in_range(sets, first, last)) {
      in_range.store(false, std::memory_order_relaxed);  // joining the threads orders it
      return;
    }
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
    for (int64_t row = first; row < last; ++row) {
      const int64_t row_end = sets.splits[row + 1];
      for (int64_t i = sets.splits[row]; i < row_end; ++i) {
        index.rows[cursors[sets.values[i]]++] = static_cast<uint16_t>(row - first);
      }
    }
  });
  return in_range ? "" : describe_id_fault(sets);
}

// Reads the index for consecutive ids: all rows that hold an id, ascending, each once.
class HoldersOfIds {
 public:
  // `scratch` belongs to this thread, which keeps it between calls.
  HoldersOfIds(const Sets& sets, const TransposedIndex& index, int64_t first_id,
               std::vector<int32_t>& scratch)
      : sets_(sets),
        index_(index),
        id_(first_id),
        scratch_(scratch),
        begins_(index.num_chunks) {
    const int64_t most = sets.num_rows + TransposedIndex::kSlack;
    if (static_cast<int64_t>(scratch.size()) < most) scratch.resize(most);
    for (int64_t chunk = 0; chunk < index.num_chunks; ++chunk) {
      begins_[chunk] = first_id > 0 ? index.ends[chunk * sets.num_tokens + first_id - 1]
                                    : static_cast<int32_t>(sets.splits[index.first_row(sets, chunk)]);
    }
  }

  // Moves on by one id and returns the number of its rows. `rows` is valid until the next call.
  int64_t next(const int32_t** rows) {
    int32_t* to = scratch_.data();
    for (int64_t chunk = 0; chunk < index_.num_chunks; ++chunk) {
      const uint16_t* begin = index_.rows + begins_[chunk];
      const uint16_t* end = index_.rows + index_.ends[chunk * sets_.num_tokens + id_];
      // A row of the next id begins where this one's end.
      begins_[chunk] = static_cast<int32_t>(end - index_.rows);
      // A caller may break its promise of unique rows; `scratch` has room for each row once.
      const bool each_once = sets_.unique && end - begin <= num_rows(chunk);
      const auto first = static_cast<int32_t>(index_.first_row(sets_, chunk));
      to = each_once ? copy(begin, end, first, to) : copy_once(begin, end, first, to);
    }
    ++id_;
    *rows = scratch_.data();
    return to - scratch_.data();
  }

 private:
  int64_t num_rows(int64_t chunk) const {
    return index_.first_row(sets_, chunk + 1) - index_.first_row(sets_, chunk);
  }

  // Eight at a time, reading beyond the end: most ids have few rows, and a loop of unpredictable
  // length costs more than what it copies.
  static int32_t* copy(const uint16_t* begin, const uint16_t* end, int32_t first, int32_t* to) {
    const int64_t count = end - begin;
    int64_t i = 0;
    do {
      for (int64_t k = 0; k < TransposedIndex::kSlack; ++k) to[i + k] = first + begin[i + k];
      i += TransposedIndex::kSlack;
    } while (i < count);
    return to + count;
  }

  // The row of a repeated id stands next to itself; chunks share no row.
  static int32_t* copy_once(const uint16_t* begin, const uint16_t* end, int32_t first,
                            int32_t* to) {
    int32_t* stop = std::unique_copy(begin, end, to);
    for (; to != stop; ++to) *to += first;
    return stop;
  }

  const Sets& sets_;
  const TransposedIndex& index_;
  int64_t id_;
  std::vector<int32_t>& scratch_;
  std::vector<int32_t> begins_;
};

}  // namespace multi_hot
