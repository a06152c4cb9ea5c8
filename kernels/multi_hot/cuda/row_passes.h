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
template <class Queue>
std::string run_touch(Queue& queue, const DeviceSets& sets, const Touched& touched, int* memory) {
  const IndexWorkspace at(sets.num_values, sets.num_tokens);
  const Index index = at.in(memory);
  std::string fault = run_index(queue, sets, index, memory);
  const TouchArguments arguments = {
      sets, index.faults, index.rows, index.keys, index.positions, memory + at.counts,
      touched.ids, touched.num, touched.slots, touched.rows, touched.weights,
      touched.num_slots, at.num_segments, at.segment};
  for (const char* kernel : {"multi_hot_count_ids", "multi_hot_place_ids"}) {
    if (fault.empty()) fault = queue.launch(kernel, at.num_segments, 1, kSortThreads, arguments);
  }
  return fault;
}

// Writes the gradients of the touched rows, [n, H], and anything behind them. `memory` has room for
// RowWorkspace(N, H).size ints.
template <class Queue>
std::string run_row_gradients(Queue& queue, const Touched& touched, const float* dy, int units,
                              float* gradients, int* memory) {
  const RowWorkspace at(touched.num_values, units);
  DeviceSets sets = {};
  sets.weights = touched.weights;
  sets.num_values = touched.num_values;
  sets.num_tokens = touched.num_slots;
  return run_sums(queue, "f32", at,
                  {sets, touched.slots + touched.num_values, touched.rows, touched.slots, nullptr,
                   dy, gradients, reinterpret_cast<float*>(memory + at.heads),
                   reinterpret_cast<float*>(memory + at.tails), units, 0, 0});
}

// Writes the sum of the squares of these gradients, [1].
template <class Queue>
std::string run_squares(Queue& queue, const Touched& touched, const float* gradients, int units,
                        float* squares, int* memory) {
  const RowWorkspace at(touched.num_values, units);
  const unsigned blocks = std::min(blocks_for(int64_t{touched.num_slots} * units, 8 * kSquareThreads),
                                   unsigned{kSquareBlocks});
  const SquareArguments arguments = {
      gradients, touched.num, reinterpret_cast<float*>(memory + at.partial), squares, units,
      static_cast<int>(blocks)};
  const std::string fault =
      queue.launch("multi_hot_square_rows", blocks, 1, kSquareThreads, arguments);
  if (!fault.empty()) return fault;
  return queue.launch("multi_hot_sum_squares", 1, 1, kSquareThreads, arguments);
}

// Updates the touched rows of a table of that type.
template <class Queue>
std::string run_update(Queue& queue, const std::string& type, int num_slots,
                       const UpdateArguments& arguments) {
  // Warps take several rows where there are many: how many are touched is not known here.
  const unsigned blocks = std::min(blocks_for(num_slots, kUpdateWarps), 8192u);
  return queue.launch("multi_hot_update_rows_" + type, blocks, 1, 32 * kUpdateWarps, arguments);
}

// Lets rows of exact Adam make up for missed steps; `num_slots` are those of the touched rows.
template <class Queue>
std::string run_catch_up(Queue& queue, int num_slots, const CatchUpArguments& arguments) {
  // Whether it is all rows is not known here either.
  const unsigned blocks =
      std::min(blocks_for(std::max(num_slots, arguments.num_tokens / 64), kUpdateWarps), 8192u);
  return queue.launch("multi_hot_catch_up", blocks, 1, 32 * kUpdateWarps, arguments);
}

}  // namespace multi_hot
