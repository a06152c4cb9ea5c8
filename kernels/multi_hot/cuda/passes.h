// The passes as launches of kernels: which, how many blocks, and the workspace between them.
//
// Shapes: B rows, V num_tokens, H units, N values, n = min(N, V) slots.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "arguments.h"
#include "driver.h"

namespace multi_hot {

struct Grid {
  int columns;         // of a lane
  unsigned of_columns; // blocks

  explicit Grid(int units)
      : columns(units <= 32 ? 1 : units <= 64 ? 2 : 4),
        of_columns((units + 32 * columns - 1) / (32 * columns)) {}
};

inline unsigned blocks_for(int64_t parts, int64_t of_block) {
  return static_cast<unsigned>(std::max<int64_t>(1, (parts + of_block - 1) / of_block));
}

constexpr int64_t kSegments = 256;  // of a sort, at most: each of its blocks reads the counts of all
constexpr int64_t kTiles = 8192;    // of sums, about, so that all cores of a large card have some

constexpr int64_t kAlign = 32;  // of what lies in a workspace, in units of 4 bytes

inline int64_t aligned(int64_t words) { return (words + kAlign - 1) / kAlign * kAlign; }

// The tiles that sums of the sorted entries are divided into.
struct Tiles {
  int tile, num_tiles;

  Tiles(int64_t num_values) {
    const int64_t entries = std::max<int64_t>(1, num_values);
    // Larger tiles where they suffice: every tile of a frequent id is one more partial sum.
    tile = static_cast<int>(std::clamp<int64_t>(entries / kTiles / 32 * 32, 32, 256));
    num_tiles = static_cast<int>(blocks_for(entries, tile));
  }
};

// Gives out parts of a workspace, in units of 4 bytes.
struct Layout {
  int64_t size = 0;

  int64_t take(int64_t words) {
    const int64_t at = size;
    size += aligned(words);
    return at;
  }
};

// Batches of entries sorted by id.
struct Index {
  int* faults;     // [L]
  int* rows;       // [L, N], of each position
  int* keys;       // [L, N]
  int* positions;  // [L, N]
};

// Where things lie that the sort of some batches needs beside the index.
struct SortWorkspace : Layout {
  int digit_bits, num_passes, segment, num_segments;
  int64_t keys, positions, counts;

  SortWorkspace(int64_t num_batches, int64_t num_values, int64_t num_tokens) {
    int bits = 1;  // of the largest key, V
    while (num_tokens >> bits) ++bits;
    num_passes = (bits + kMaxDigitBits - 1) / kMaxDigitBits;
    digit_bits = (bits + num_passes - 1) / num_passes;
    const int64_t entries = std::max<int64_t>(1, num_values);
    segment = static_cast<int>(
        blocks_for(blocks_for(entries, kSegments), kSortThreads) * int64_t{kSortThreads});
    num_segments = static_cast<int>(blocks_for(entries, segment));
    keys = take(num_batches * num_values);
    positions = take(num_batches * num_values);
    counts = take(num_batches * num_segments << digit_bits);
  }
};

// The sums of tiles.
struct SumWorkspace : Tiles, Layout {
  int64_t heads, tails;

  SumWorkspace(int64_t num_values, int64_t units)
      : Tiles(num_values), heads(take(num_tiles * units)), tails(take(num_tiles * units)) {}
};

// The arguments but their number of rows may be anything: what is out of range is cut off, and a batch
// that holds more than its capacity has splits that the other kernels take for wrong.
inline void run_take_rows(Queue& queue, const TakeArguments& arguments) {
  queue.launch("multi_hot_take_splits", 1, 1, kSplitThreads, arguments);
  const int64_t threads = std::max<int64_t>(int64_t{arguments.num_rows} * 32, arguments.capacity / 16);
  queue.launch("multi_hot_take_values", blocks_for(threads, kTakeThreads), 1, kTakeThreads, arguments);
}

// `type` is the table's in the kernels' names: f32, bf16 or f16.
inline void run_forward(Queue& queue, const std::string& type, bool unique,
                        const ForwardArguments& arguments) {
  const DeviceSets& sets = arguments.sets;
  if (sets.num_rows == 0) return;
  const Grid grid(arguments.units);
  const bool once = !unique && sets.weights == nullptr;
  queue.launch("multi_hot_forward_" + std::string(once ? "once_" : "") + type + "_" +
                    std::to_string(grid.columns),
                blocks_for(sets.num_rows, kForwardWarps), grid.of_columns, 32 * kForwardWarps,
                arguments);
}

// Sorts the entries of `sets.num_steps` batches by id. `memory` has room for
// SortWorkspace(L, N, V).size ints.
inline void run_index(Queue& queue, const DeviceSets& sets, const Index& to, int* memory) {
  const int num_batches = sets.num_steps;
  const SortWorkspace at(num_batches, sets.num_values, sets.num_tokens);
  queue.clear(to.faults, num_batches * sizeof(int));
  queue.launch("multi_hot_prepare", blocks_for(int64_t{sets.num_rows} * 32, kPrepareThreads),
                num_batches, kPrepareThreads, PrepareArguments{sets, to.faults, to.rows});
  SortArguments sort = {sets, nullptr, nullptr, memory + at.counts, nullptr, nullptr,
                        at.num_segments, at.segment, 0, at.digit_bits};
  for (int pass = 0; pass < at.num_passes; ++pass) {
    const bool is_kept = (at.num_passes - pass) % 2;  // so that the last pass writes the index
    sort.sorted_keys = is_kept ? to.keys : memory + at.keys;
    sort.sorted_positions = is_kept ? to.positions : memory + at.positions;
    sort.shift = pass * at.digit_bits;
    for (const char* kernel : {"multi_hot_count", "multi_hot_scatter"}) {
      queue.launch(kernel, at.num_segments, num_batches, kSortThreads, sort);
    }
    sort.keys = sort.sorted_keys;
    sort.positions = sort.sorted_positions;
  }
}

// The sums of the sorted entries. `sums` lacks the tiles, and `memory` has room for
// SumWorkspace(N, H).size ints.
inline void run_sums(Queue& queue, const std::string& type, SumArguments sums, int* memory) {
  const SumWorkspace at(sums.sets.num_values, sums.units);
  const Grid grid(sums.units);
  sums.heads = reinterpret_cast<float*>(memory + at.heads);
  sums.tails = reinterpret_cast<float*>(memory + at.tails);
  sums.num_tiles = sums.sets.num_values == 0 ? 0 : at.num_tiles;
  sums.tile = at.tile;
  const std::string suffix = type + "_" + std::to_string(grid.columns);
  for (const char* kernel : {"multi_hot_sum_tiles_", "multi_hot_sum_runs_"}) {
    queue.launch(kernel + suffix, blocks_for(at.num_tiles, kSumWarps), grid.of_columns,
                  32 * kSumWarps, sums);
  }
}

// dW from an index. `memory` has room for SumWorkspace(N, H).size ints.
inline void run_gradient(Queue& queue, const std::string& type, const DeviceSets& sets,
                         const Index& index, const void* dy, int units, void* dw, int* memory) {
  const std::size_t bytes = type == "f32" ? 4 : 2;
  queue.clear(dw, bytes * sets.num_tokens * units);
  run_sums(queue, type,
           {sets, index.faults, index.rows, index.keys, index.positions, dy, dw, units},
           memory);
}

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

// Fills `touched` from an index. `counts` has room for kSegments ints.
inline void run_touch_sorted(Queue& queue, const DeviceSets& sets, const Index& index,
                             const Touched& touched, int* counts) {
  const SortWorkspace at(1, sets.num_values, sets.num_tokens);
  const TouchArguments arguments = {
      sets, index.faults, index.rows, index.keys, index.positions, counts,
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
