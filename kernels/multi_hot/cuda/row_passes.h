// Launches for the rows of a table that a batch touches: their index, gradients and updates.
//
// Shapes: B rows, V num_tokens, H units, N values, n = min(N, V) slots.
#pragma once

#include "passes.h"

namespace multi_hot {

// The index of a batch by the ids that it touches.
struct Touched {
  int* ids;        // [n]
  int* slots;      // [N + 1]
  int* rows;       // [N]
  int* num;        // [1]
  float* weights;  // [N], or null
  int num_values;  // N
  int num_slots;   // n
};

// Where things lie in the workspace of the gradients, in units of 4 bytes.
struct RowWorkspace : SumWorkspace {
  int64_t partial;

  RowWorkspace(int64_t num_values, int64_t units)
      : SumWorkspace(num_values, units), partial(take(kSquareBlocks)) {}
};

// Fills `touched`. `memory` has room for IndexWorkspace(N, V).size ints.
inline void run_touch(Queue& queue, const DeviceSets& sets, const Touched& touched, int* memory) {
  const IndexWorkspace at(sets.num_values, sets.num_tokens);
  const Index index = at.in(memory);
  run_index(queue, sets, index, memory);
  const TouchArguments arguments = {
      sets, index.faults, index.rows, index.keys, index.positions, memory + at.counts,
      touched.ids, touched.num, touched.slots, touched.rows, touched.weights,
      touched.num_slots, at.num_segments, at.segment};
  for (const char* kernel : {"multi_hot_count_ids", "multi_hot_place_ids"}) {
    queue.launch(kernel, at.num_segments, 1, kSortThreads, arguments);
  }
}

// Writes the gradients of the touched rows, [n, H], and anything behind them. `memory` has room for
// RowWorkspace(N, H).size ints.
inline void run_row_gradients(Queue& queue, const Touched& touched, const float* dy, int units,
                              float* gradients, int* memory) {
  DeviceSets sets = {};
  sets.weights = touched.weights;
  sets.num_values = touched.num_values;
  sets.num_tokens = touched.num_slots;
  run_sums(queue, "f32",
           {sets, touched.slots + touched.num_values, touched.rows, touched.slots, nullptr, dy,
            gradients, units},
           memory);
}

// Writes the sum of the squares of these gradients, [1].
inline void run_squares(Queue& queue, const Touched& touched, const float* gradients, int units,
                        float* squares, int* memory) {
  const RowWorkspace at(touched.num_values, units);
  const unsigned blocks = std::min(blocks_for(int64_t{touched.num_slots} * units, 8 * kSquareThreads),
                                   unsigned{kSquareBlocks});
  const SquareArguments arguments = {
      gradients, touched.num, reinterpret_cast<float*>(memory + at.partial), squares, units,
      static_cast<int>(blocks)};
  queue.launch("multi_hot_square_rows", blocks, 1, kSquareThreads, arguments);
  queue.launch("multi_hot_sum_squares", 1, 1, kSquareThreads, arguments);
}

// The blocks of a kernel whose warps take a row each, or several where there are many: how many are
// touched is not known here.
inline unsigned blocks_for_rows(int64_t num_rows) {
  return std::min(blocks_for(num_rows, kUpdateWarps), 8192u);
}

// Updates the touched rows of a table of that type.
inline void run_update(Queue& queue, const std::string& type, int num_slots,
                       const UpdateArguments& arguments) {
  queue.launch("multi_hot_update_rows_" + type, blocks_for_rows(num_slots), 1, 32 * kUpdateWarps,
                arguments);
}

// Lets rows of exact Adam make up for missed steps; `num_slots` are those of the touched rows.
inline void run_catch_up(Queue& queue, int num_slots, const CatchUpArguments& arguments) {
  // Whether it is all rows is not known here either.
  const int num_rows = std::max(num_slots, arguments.num_tokens / 64);
  queue.launch("multi_hot_catch_up", blocks_for_rows(num_rows), 1, 32 * kUpdateWarps, arguments);
}

}  // namespace multi_hot
