// Gradients of the touched rows of a table, and optimizers that change these rows in place.
//
// Shapes: B rows, V num_tokens, H units, n slots of touched rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "parallel.h"
#include "row_sum.h"
#include "rules.h"
#include "touched.h"

namespace multi_hot {

template <class Element>
void prefetch_row(const Element* matrix, int64_t row, int64_t units) {
  const char* bytes = reinterpret_cast<const char*>(matrix + row * units);
  const int64_t length = units * static_cast<int64_t>(sizeof(Element));
  for (int64_t byte = 0; byte < length; byte += kCacheLineBytes) __builtin_prefetch(bytes + byte, 1);
  __builtin_prefetch(bytes + length - 1, 1);
}

// Prefetches a row of a table, and its part of the slots, of `num_columns` columns.
template <class Element>
void prefetch_id(const Table& table, int64_t num_columns, int64_t id) {
  prefetch_row(static_cast<const Element*>(table.rows), id, table.units);
  for (const float* slot : table.slots) {
    if (slot != nullptr) prefetch_row(slot, id, num_columns);
  }
  if (table.last != nullptr) __builtin_prefetch(table.last + id, 1);
}

// The sum of products of two vectors, in the processor's own width: the compiler would have to keep
// the order of the summands, each of which would wait for the one before.
inline float inner_product(const float* a, const float* b, int64_t count) {
  typename Vector<kLanes>::Floats wide = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    wide += load_columns<kLanes>(a + i) * load_columns<kLanes>(b + i);
  }
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += wide[lane];
  for (; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// The one thread of a CPU that updates a row; see rules.h.
struct OneThread {
  static constexpr int kCount = 1;
  static int first() { return 0; }
  static float of_first(float number) { return number; }
  static void join() {}
  static float sum_of_squares(const float* numbers, int count) {
    return inner_product(numbers, numbers, count);
  }
  // Adds to sums[j] the rates of the `count` steps after `after`, times terms[j, i].
  static void add_up(const CatchUp& a, int64_t after, int64_t count, const float* terms, float* sums) {
    while (count > 0) {  // the rates are a ring
      const int64_t from = after % a.table.num_rates, run = std::min(count, a.table.num_rates - from);
      for (int j = 0; j < kTerms; ++j) {
        sums[j] += inner_product(a.table.rates + from, terms + j * a.length, run);
      }
      terms += run;
      after += run;
      count -= run;
    }
  }
};

// Calls take(slot, id) for each touched row, from some threads at a time, and `prefetch(id)` some rows
// ahead of it. One thread takes all slots of a group of ids.
template <class Pool, class Prefetch, class Take>
void for_each_slot(const int32_t* ids, int64_t num, Pool& pool, Prefetch prefetch, Take take) {
  constexpr int64_t kSlotsPerBlock = 64, kSlotsAhead = 4;
  const auto cut = [=](int64_t slot) {
    slot = std::min(slot, num);
    while (slot > 0 && slot < num && ids[slot] >> kGroupBits == ids[slot - 1] >> kGroupBits) ++slot;
    return slot;
  };
  parallel_for(pool, (num + kSlotsPerBlock - 1) / kSlotsPerBlock, [&](int64_t block) {
    const int64_t begin = cut(block * kSlotsPerBlock), end = cut((block + 1) * kSlotsPerBlock);
    for (int64_t slot = begin; slot < std::min(begin + kSlotsAhead, end); ++slot) prefetch(ids[slot]);
    for (int64_t slot = begin; slot < end; ++slot) {
      if (slot + kSlotsAhead < end) prefetch(ids[slot + kSlotsAhead]);
      take(slot, ids[slot]);
    }
  });
}

// Returns the gradient [H] of a slot's row, summed in the order of the batch's rows: in memory of this
// thread until the next call, or where it is a row of dy, that. One copy of the loop serves all
// optimizers.
__attribute__((noinline)) inline const float* gradient_of(const TouchedIndex& index, int64_t slot,
                                                          const float* dy, int64_t units) {
  const int64_t from = index.spans[2 * slot], count = index.spans[2 * slot + 1] - from;
  const int64_t num_ahead = index.spans[2 * *index.num - 1] - from;
  const int32_t* rows = index.rows + from;
  if (index.weights == nullptr && count == 1) return dy + *rows * units;  // as most ids have it
  static thread_local std::vector<float> buffer;
  buffer.resize(std::max<size_t>(buffer.size(), units));
  const float* weights = index.weights == nullptr ? nullptr : index.weights + from;
  sum_rows(dy, units, rows, weights, count, num_ahead, buffer.data());
  return buffer.data();
}

// Writes the gradients of the touched rows to `rows` [n, H]; what lies behind them is left as it is.
// Returns the sum of their squares.
template <class Pool>
float row_gradients(const TouchedIndex& index, const float* dy, int64_t units, float* rows,
                    Pool& pool) {
  std::vector<float> squares(*index.num);
  for_each_slot(index.ids, *index.num, pool, [](int64_t) {}, [&](int64_t slot, int64_t) {
    float* const row = rows + slot * units;
    std::copy_n(gradient_of(index, slot, dy, units), units, row);
    squares[slot] = inner_product(row, row, units);
  });
  return static_cast<float>(std::accumulate(squares.begin(), squares.end(), 0.0));
}

// Updates the touched rows of a table by their gradients, which are rows [n, H], or with `from_dy`
// follow from dy [B, H]: then they are never stored.
template <class Element, class Pool>
void update_rows(const Update& update, const TouchedIndex& index, const float* gradients, bool from_dy,
                 Pool& pool) {
  const Table& table = update.table;
  const int64_t units = table.units;
  const int64_t num_columns = update.kind == kRowAdagrad ? 1 : units;  // of the slots
  keep_rate(update);
  const auto prefetch = [&](int64_t id) { prefetch_id<Element>(table, num_columns, id); };
  for_each_slot(index.ids, *index.num, pool, prefetch, [&](int64_t slot, int64_t id) {
    update_row<OneThread, Element>(update, id,
                                   from_dy ? gradient_of(index, slot, gradients, units)
                                           : gradients + slot * units);
  });
}

// Lets the touched rows make up for missed steps, or every row.
template <class Pool>
void catch_up(const CatchUp& a, const int32_t* ids, int64_t num, Pool& pool) {
  const int64_t num_tokens = a.table.num_tokens;
  if (!a.is_of_all()) {
    const auto prefetch = [&](int64_t id) { prefetch_id<float>(a.table, a.table.units, id); };
    return for_each_slot(ids, num, pool, prefetch,
                         [&](int64_t, int64_t id) { catch_up_row<OneThread>(a, id); });
  }
  constexpr int64_t kRowsPerBlock = 1024;
  parallel_for(pool, (num_tokens + kRowsPerBlock - 1) / kRowsPerBlock, [&](int64_t block) {
    const int64_t end = std::min(num_tokens, (block + 1) * kRowsPerBlock);
    for (int64_t id = block * kRowsPerBlock; id < end; ++id) catch_up_row<OneThread>(a, id);
  });
}

}  // namespace multi_hot
