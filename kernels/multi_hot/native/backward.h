// dW[j, :] = sum over rows b that hold j of dy[b, :]
//
// Through a transposed index (for each id the rows that hold it), so that no two threads write one
// row of dW and every sum runs in the order of the rows, whatever the number of threads.
// Shapes: B rows, V num_tokens, H units, N values.
#ifndef MULTI_HOT_BACKWARD_H_
#define MULTI_HOT_BACKWARD_H_

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "row_sum.h"
#include "sets.h"

namespace multi_hot {

// The memory of the transposed index; the caller's, so that XLA can plan it.
struct TransposedIndex {
  int32_t* cursors;    // [num_chunks, V]: while filling, where a chunk puts the next row of an id
  int64_t num_chunks;  // at least 1; the index does not depend on it
  int32_t* starts;     // [V + 1]: id j is held by rows[starts[j]] ... rows[starts[j + 1] - 1]
  int32_t* rows;       // [N]: ascending within an id
};

// Fills `index` by a counting sort of the entries by id: each chunk of rows counts its ids, a
// running sum over (id, chunk) gives every chunk its places, and each chunk fills them in order.
inline void transpose(const Sets& sets, const TransposedIndex& index, Workers& workers) {
  const int64_t V = sets.num_tokens, C = index.num_chunks;
  const auto first_row = [&](int64_t chunk) { return sets.num_rows * chunk / C; };
  parallel_for(workers, C, [&](int64_t chunk) {
    int32_t* counts = index.cursors + chunk * V;
    std::fill(counts, counts + V, 0);
    const int64_t end = sets.splits[first_row(chunk + 1)];
    for (int64_t i = sets.splits[first_row(chunk)]; i < end; ++i) ++counts[sets.values[i]];
  });
  int32_t total = 0;
  for (int64_t id = 0; id < V; ++id) {
    index.starts[id] = total;
    for (int64_t chunk = 0; chunk < C; ++chunk) {
      int32_t& cursor = index.cursors[chunk * V + id];
      const int32_t count = cursor;
      cursor = total;
      total += count;
    }
  }
  index.starts[V] = total;
  parallel_for(workers, C, [&](int64_t chunk) {
    int32_t* cursors = index.cursors + chunk * V;
    for (int64_t row = first_row(chunk); row < first_row(chunk + 1); ++row) {
      const int64_t end = sets.splits[row + 1];
      for (int64_t i = sets.splits[row]; i < end; ++i) {
        index.rows[cursors[sets.values[i]]++] = static_cast<int32_t>(row);
      }
    }
  });
}

// Writes dW [V, H] from dy [B, H]. `sets` must be free of faults.
template <class Format>
void backward(const Sets& sets, const typename Format::Storage* dy, int64_t units,
              const TransposedIndex& index, typename Format::Storage* dw, Workers& workers) {
  transpose(sets, index, workers);
  constexpr int64_t kIdsPerBlock = 128;
  const int64_t num_blocks = (sets.num_tokens + kIdsPerBlock - 1) / kIdsPerBlock;
  parallel_for(workers, num_blocks, [&](int64_t block) {
    const int64_t end = std::min(sets.num_tokens, (block + 1) * kIdsPerBlock);
    for (int64_t id = block * kIdsPerBlock; id < end; ++id) {
      int32_t* rows = index.rows + index.starts[id];
      int32_t* rows_end = index.rows + index.starts[id + 1];
      // A repeated id put its row next to itself.
      if (!sets.unique) rows_end = std::unique(rows, rows_end);
      sum_rows<Format>(dy, units, rows, rows_end - rows, dw + id * units);
    }
  });
}

}  // namespace multi_hot

#endif  // MULTI_HOT_BACKWARD_H_
