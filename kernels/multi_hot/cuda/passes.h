// The two passes as launches of kernels: which, how many blocks, and the workspace between them.
//
// A `Queue` runs them in order: `launch(kernel, blocks, blocks_of_columns, threads, arguments)` and
// `clear(pointer)`, which sets an int to 0, return what went wrong, or an empty string.
// Shapes: B rows, V num_tokens, H units, N values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "arguments.h"

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

// How the work of the backward pass is divided. Tests divide small batches like large ones.
struct Division {
  int64_t segments = 256;  // at most: each block of the sort reads the counts of all
  int64_t tiles = 8192;    // about, so that all cores of a large card have some
};

constexpr int64_t kAlign = 32;  // of what lies in a workspace, in units of 4 bytes

inline int64_t aligned(int64_t words) { return (words + kAlign - 1) / kAlign * kAlign; }

// The tiles that sums of the sorted entries are divided into.
struct Tiles {
  int tile, num_tiles;

  Tiles(int64_t num_values, Division division) {
    const int64_t entries = std::max<int64_t>(1, num_values);
    // Larger tiles where they suffice: every tile of a frequent id is one more partial sum.
    tile = static_cast<int>(std::clamp<int64_t>(entries / division.tiles / 32 * 32, 32, 256));
    num_tiles = static_cast<int>(blocks_for(entries, tile));
  }
};

// Where things lie in the workspace of the backward pass, in units of 4 bytes. It depends on
// nothing but the shapes. Without units it is that of the touched rows, which need no sums.
struct Workspace : Tiles {
  int digit_bits, num_passes, segment, num_segments;
  int64_t rows, keys[2], positions[2], counts, heads, tails, size;  // the fault is at 0

  Workspace(int64_t num_values, int64_t num_tokens, int64_t units, Division division = {})
      : Tiles(num_values, division) {
    int bits = 1;  // of the largest key, V
    while (num_tokens >> bits) ++bits;
    num_passes = (bits + kMaxDigitBits - 1) / kMaxDigitBits;
    digit_bits = (bits + num_passes - 1) / num_passes;
    const int64_t entries = std::max<int64_t>(1, num_values);
    segment = static_cast<int>(
        blocks_for(blocks_for(entries, division.segments), kSortThreads) * int64_t{kSortThreads});
    num_segments = static_cast<int>(blocks_for(entries, segment));
    size = kAlign;
    const auto take = [this](int64_t words) {
      const int64_t at = size;
      size += aligned(words);
      return at;
    };
    rows = take(num_values);
    for (int64_t& at : keys) at = take(num_values);
    for (int64_t& at : positions) at = take(num_values);
    counts = take(int64_t{num_segments} << digit_bits);
    heads = take(num_tiles * units);
    tails = take(num_tiles * units);
  }
};

// The arguments but their number of rows may be anything: what is out of range is cut off, and a batch
// that holds more than its capacity has splits that the other kernels take for wrong.
template <class Queue>
std::string run_take_rows(Queue& queue, const TakeArguments& arguments) {
  std::string fault = queue.launch("multi_hot_take_splits", 1, 1, kSplitThreads, arguments);
  if (!fault.empty()) return fault;
  const int64_t threads = std::max<int64_t>(int64_t{arguments.num_rows} * 32, arguments.capacity / 16);
  return queue.launch("multi_hot_take_values", blocks_for(threads, kTakeThreads), 1, kTakeThreads,
                      arguments);
}

// `type` is the table's in the kernels' names: f32, bf16 or f16.
template <class Queue>
std::string run_forward(Queue& queue, const std::string& type, const DeviceSets& sets, bool unique,
                        const void* table, int units, void* y) {
  if (sets.num_rows == 0) return "";
  const Grid grid(units);
  const bool once = !unique && sets.weights == nullptr;
  const ForwardArguments arguments = {sets, table, y, units};
  return queue.launch("multi_hot_forward_" + std::string(once ? "once_" : "") + type + "_" +
                          std::to_string(grid.columns),
                      blocks_for(sets.num_rows, kForwardWarps), grid.of_columns,
                      32 * kForwardWarps, arguments);
}

// Sorts the entries by id; afterwards `sort->keys` and `sort->positions` hold them.
template <class Queue>
std::string run_sort(Queue& queue, const DeviceSets& sets, const Workspace& at, int* memory,
                     SortArguments* sort) {
  *sort = {sets, nullptr, nullptr, memory + at.counts, nullptr, nullptr,
           at.num_segments, at.segment, 0, at.digit_bits};
  for (int pass = 0; pass < at.num_passes; ++pass) {
    sort->sorted_keys = memory + at.keys[pass % 2];
    sort->sorted_positions = memory + at.positions[pass % 2];
    sort->shift = pass * at.digit_bits;
    for (const char* kernel : {"multi_hot_count", "multi_hot_scatter"}) {
      const std::string fault = queue.launch(kernel, at.num_segments, 1, kSortThreads, *sort);
      if (!fault.empty()) return fault;
    }
    sort->keys = sort->sorted_keys;
    sort->positions = sort->sorted_positions;
  }
  return "";
}

// The sums of the sorted entries; `sums` lacks the tiles.
template <class Queue>
std::string run_sums(Queue& queue, const std::string& type, const Tiles& tiles, SumArguments sums) {
  const Grid grid(sums.units);
  sums.num_tiles = sums.sets.num_values == 0 ? 0 : tiles.num_tiles;
  sums.tile = tiles.tile;
  const std::string suffix = type + "_" + std::to_string(grid.columns);
  for (const char* kernel : {"multi_hot_sum_tiles_", "multi_hot_sum_runs_"}) {
    const std::string fault =
        queue.launch(kernel + suffix, blocks_for(tiles.num_tiles, kSumWarps), grid.of_columns,
                     32 * kSumWarps, sums);
    if (!fault.empty()) return fault;
  }
  return "";
}

// `memory` has room for Workspace(N, V, H, division).size ints.
template <class Queue>
std::string run_backward(Queue& queue, const std::string& type, const DeviceSets& sets,
                         const void* dy, int units, void* dw, int* memory, Division division = {}) {
  const Workspace at(sets.num_values, sets.num_tokens, units, division);
  const int64_t num_gradients = int64_t{sets.num_tokens} * units;
  int* const rows = memory + at.rows;
  // A warp per row; of a small batch also enough threads to clear dW.
  const unsigned blocks = std::max(blocks_for(int64_t{sets.num_rows} * 32, kPrepareThreads),
                                   std::min(blocks_for(num_gradients, 8 * kPrepareThreads), 1024u));
  const PrepareArguments prepared = {sets, memory, rows, dw, num_gradients};
  std::string fault = queue.clear(memory);
  if (fault.empty()) {
    fault = queue.launch("multi_hot_prepare_" + type, blocks, 1, kPrepareThreads, prepared);
  }
  if (sets.num_rows == 0) return fault;  // nobody has checked the splits, and dW is 0
  SortArguments sort;
  if (fault.empty()) fault = run_sort(queue, sets, at, memory, &sort);
  if (!fault.empty()) return fault;
  return run_sums(queue, type, at,
                  {sets, memory, rows, sort.keys, sort.positions, dy, dw,
                   reinterpret_cast<float*>(memory + at.heads),
                   reinterpret_cast<float*>(memory + at.tails), units, 0, 0});
}

}  // namespace multi_hot
