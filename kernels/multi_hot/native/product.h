// The two passes of the product.
//
// y[b, :] = sum over j in set(row b) of table[j, :]
// dW[j, :] = sum over rows b that hold j of dy[b, :]
// Where ids have weights, each summand is multiplied by the sum of the weights of j in row b.
// Shapes: B rows, V num_tokens, H units, N values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "row_sum.h"
#include "sets.h"
#include "transpose.h"

namespace multi_hot {

// Returns the ids of [begin, end) without repetitions, valid until this thread's next call, in time
// proportional to their number: a stamp per token says in which row it was last seen.
inline const std::vector<int32_t>& first_occurrences(const int32_t* begin, const int32_t* end,
                                                     int64_t num_tokens) {
  static thread_local std::vector<uint32_t> stamps;
  static thread_local std::vector<int32_t> ids;
  static thread_local uint32_t stamp = 0;
  if (static_cast<int64_t>(stamps.size()) < num_tokens) stamps.resize(num_tokens, 0);
  if (++stamp == 0) {  // wrapped around: old stamps could be mistaken for new ones
    stamps.assign(stamps.size(), 0);
    stamp = 1;
  }
  ids.clear();
  for (const int32_t* id = begin; id != end; ++id) {
    if (stamps[*id] == stamp) continue;
    stamps[*id] = stamp;
    ids.push_back(*id);
  }
  return ids;
}

// Writes y [B, H]; raises what is wrong with the sets. Each row is summed by one thread in the order of
// its ids, so the result does not depend on the number of threads.
template <class Pool, class Element>
void forward(const Sets& sets, const Element* table, int64_t units, float* y, Pool& pool) {
  check_splits(sets);
  // Small enough to balance long rows, large enough to make scheduling cheap.
  constexpr int64_t kRowsPerBlock = 16;
  const int64_t num_blocks = (sets.num_rows + kRowsPerBlock - 1) / kRowsPerBlock;
  parallel_for(pool, num_blocks, [&](int64_t block) {
    const int64_t end = std::min(sets.num_rows, (block + 1) * kRowsPerBlock);
    check_ids(sets, block * kRowsPerBlock, end);
    for (int64_t row = block * kRowsPerBlock; row < end; ++row) {
      const int32_t* ids = sets.values + sets.splits[row];
      int64_t num_ids = sets.splits[row + 1] - sets.splits[row];
      int64_t num_ahead = sets.splits[end] - sets.splits[row];
      const float* weights = sets.weights == nullptr ? nullptr : sets.weights + sets.splits[row];
      if (weights == nullptr && !sets.unique) {  // a repeated id with weights is one more summand
        const auto& distinct = first_occurrences(ids, ids + num_ids, sets.num_tokens);
        ids = distinct.data();
        num_ids = num_ahead = static_cast<int64_t>(distinct.size());
      }
      sum_rows(table, units, ids, weights, num_ids, num_ahead, y + row * units);
    }
  });
}

// Writes dW [V, H] from dy [B, H]; raises what is wrong with the sets. Through the transposed index, so
// that no two threads write one row of dW and every sum runs in the order of the rows, whatever the
// number of threads.
template <class Pool>
void backward(const Sets& sets, const float* dy, int64_t units, const TransposedIndex& index,
              float* dw, Pool& pool) {
  transpose(sets, index, pool);
  // Small blocks for balance, since frequent ids have most of the rows; no smaller than necessary.
  const int64_t per_thread = sets.num_tokens / std::max<int64_t>(1, pool.num_threads());
  const int64_t ids_per_block = std::clamp<int64_t>(per_thread / 8, 32, 512);
  const int64_t num_blocks = (sets.num_tokens + ids_per_block - 1) / ids_per_block;
  parallel_for(pool, num_blocks, [&](int64_t block) {
    static thread_local std::vector<int32_t> rows;
    static thread_local std::vector<float> weights;
    const int64_t begin = block * ids_per_block;
    const int64_t end = std::min(sets.num_tokens, begin + ids_per_block);
    rows.resize(std::max<size_t>(rows.size(), sets.num_rows + TransposedIndex::kSlack));
    if (sets.weights != nullptr) weights.resize(std::max<size_t>(weights.size(), sets.num_rows));
    float* const own = sets.weights == nullptr ? nullptr : weights.data();
    for (int64_t id = begin; id < end; ++id) {
      const int64_t count = holders_of(id, sets, index, rows.data(), own);
      sum_rows(dy, units, rows.data(), own, count, count, dw + id * units);
    }
  });
}

}  // namespace multi_hot
