// The CUDA kernels as custom calls through XLA's foreign function interface. A call launches its kernels
// on XLA's stream and returns; what it needs of memory beside is XLA's.
//
// Shapes: B rows, V num_tokens, H units, N values, n = min(N, V) slots; L batches.
#include <algorithm>
#include <climits>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>

#include "../native/frame.h"
#include "../native/table_calls.h"
#include "arguments.h"
#include "driver.h"

namespace multi_hot {
namespace {

constexpr int64_t kSegments = 256;  // of a sort, at most: each of its blocks reads the counts of all
constexpr int64_t kTiles = 8192;    // of sums, about, so that all cores of a large card have some

unsigned blocks_for(int64_t parts, int64_t of_block) {
  return static_cast<unsigned>(std::max<int64_t>(1, (parts + of_block - 1) / of_block));
}

// The blocks of a kernel whose warps take a row each, or several where there are many: how many are
// touched is not known here.
unsigned blocks_for_rows(int64_t num_rows) { return std::min(blocks_for(num_rows, kUpdateWarps), 8192u); }

struct Grid {
  int columns;          // of a lane
  unsigned of_columns;  // blocks

  explicit Grid(int units)
      : columns(units <= 32 ? 1 : units <= 64 ? 2 : 4),
        of_columns((units + 32 * columns - 1) / (32 * columns)) {}
};

// How a batch's entries are sorted by id.
struct Sort {
  int digit_bits, num_passes, segment, num_segments;

  Sort(int64_t num_values, int64_t num_tokens) {
    int bits = 1;  // of the largest key, V
    while (num_tokens >> bits) ++bits;
    num_passes = (bits + kMaxDigitBits - 1) / kMaxDigitBits;
    digit_bits = (bits + num_passes - 1) / num_passes;
    const int64_t entries = std::max<int64_t>(1, num_values);
    segment = static_cast<int>(
        blocks_for(blocks_for(entries, kSegments), kSortThreads) * int64_t{kSortThreads});
    num_segments = static_cast<int>(blocks_for(entries, segment));
  }
};

// The entries of a tile that sums of the sorted entries are divided into. Larger tiles where they suffice:
// every tile of a frequent id is one more partial sum.
int tile_of(int64_t num_values) {
  return static_cast<int>(std::clamp<int64_t>(num_values / kTiles / 32 * 32, 32, 256));
}

// The name of a table's type in those of the kernels.
std::string type_name(XLA_FFI_DataType type) {
  switch (type) {
    case XLA_FFI_DataType_F32: return "f32";
    case XLA_FFI_DataType_BF16: return "bf16";
    case XLA_FFI_DataType_F16: return "f16";
    default: throw std::invalid_argument("tables are float32, bfloat16 or float16");
  }
}

// The sets of L batches, without their weights and step.
DeviceSets sets_from(const Buffer& values, const Buffer& splits, int64_t num_tokens) {
  DeviceSets sets = {};
  const int64_t N = values.dim(1), B = splits.dim(1) - 1;
  // Positions are counted in int32, and a little beyond them.
  if (N > INT_MAX - 4096 || B > INT_MAX / 32 - 4096 || num_tokens > INT_MAX - 1) {
    throw std::invalid_argument("a batch may hold up to 2^31 ids and 2^26 rows");
  }
  sets.values = values.data<void>();
  sets.splits = splits.data<int32_t>();
  sets.narrow_ids = values.type() == XLA_FFI_DataType_U16;
  sets.num_values = static_cast<int>(N);
  sets.num_rows = static_cast<int>(B);
  sets.num_tokens = static_cast<int>(num_tokens);
  sets.num_steps = static_cast<int>(splits.dim(0));
  return sets;
}

// Reads the step, and weights where there are any, from the operands from `place` on.
void read_rest(const Call& call, int64_t place, DeviceSets* sets) {
  for (; place < call.num_operands(); ++place) {
    const Buffer operand = call.operand(place);
    if (operand.rank() == 0) {
      sets->step = operand.data<int32_t>();
    } else {
      sets->weights = operand.data<float>();
    }
  }
}

// The index of L batches, with which operands begin at `place`; the rest go to `sets`.
SortedIndex index_of(const Call& call, int64_t place, DeviceSets* sets) {
  const Buffer faults = call.operand(place), keys = call.operand(place + 2);
  sets->num_steps = static_cast<int>(faults.size());
  sets->num_values = static_cast<int>(keys.dim(1));
  read_rest(call, place + 4, sets);
  return {faults.data<int32_t>(), call.operand(place + 1).data<int32_t>(), keys.data<int32_t>(),
          call.operand(place + 3).data<int32_t>()};
}

// (table [V, H], values [L, N], row_splits [L, B + 1], the step [], maybe weights [L, N]) -> y [B, H].
// Without weights, no row holds an id twice.
void forward_call(const Call& call, Queue& queue) {
  const Buffer table = call.operand(0);
  DeviceSets sets = sets_from(call.operand(1), call.operand(2), table.dim(0));
  read_rest(call, 3, &sets);
  if (sets.num_rows == 0) return;
  const int units = static_cast<int>(table.dim(1));
  const Grid grid(units);
  queue.launch("multi_hot_forward_" + type_name(table.type()) + "_" + std::to_string(grid.columns),
               blocks_for(sets.num_rows, kForwardWarps), grid.of_columns, 32 * kForwardWarps,
               ForwardArguments{sets, table.data<void>(), call.result(0).data<void>(), units});
}

// (values [L, N], row_splits [L, B + 1]) -> the index of L batches: faults [L], rows, keys and
// positions [L, N]; and workspace: keys and positions [L, N], counts
void index_call(const Call& call, Queue& queue) {
  const DeviceSets sets =
      sets_from(call.operand(0), call.operand(1), call.attribute<int64_t>("num_tokens"));
  int* const faults = call.result(0).data<int32_t>();
  const int num_batches = sets.num_steps;
  const Sort at(sets.num_values, sets.num_tokens);
  queue.clear(faults, num_batches * sizeof(int));
  queue.launch("multi_hot_prepare", blocks_for(int64_t{sets.num_rows} * 32, kPrepareThreads),
               num_batches, kPrepareThreads,
               PrepareArguments{sets, faults, call.result(1).data<int32_t>()});
  SortArguments sort = {sets, nullptr, nullptr, call.result(6).data<int32_t>(), nullptr, nullptr,
                        at.num_segments, at.segment, 0, at.digit_bits};
  for (int pass = 0; pass < at.num_passes; ++pass) {
    const int first = (at.num_passes - pass) % 2 ? 2 : 4;  // so that the last pass writes the index
    sort.sorted_keys = call.result(first).data<int32_t>();
    sort.sorted_positions = call.result(first + 1).data<int32_t>();
    sort.shift = pass * at.digit_bits;
    for (const char* kernel : {"multi_hot_count", "multi_hot_scatter"}) {
      queue.launch(kernel, at.num_segments, num_batches, kSortThreads, sort);
    }
    sort.keys = sort.sorted_keys;
    sort.positions = sort.sorted_positions;
  }
}

// (dy [B, H], the index of L batches, the step [], maybe weights [L, N]) -> dW [V, H], and workspace:
// heads and tails [tiles, H]; with `slots` [N] in place of the batch's keys, behind dy -> the touched rows' gradients [n, H],
// and anything behind them
template <bool has_slots>
void gradient_call(const Call& call, Queue& queue) {
  const Buffer dy = call.operand(0), dw = call.result(0);
  SumArguments sums = {};
  if (has_slots) sums.slots = call.operand(1).data<int32_t>();
  sums.index = index_of(call, has_slots ? 2 : 1, &sums.sets);
  sums.sets.num_tokens = static_cast<int>(dw.dim(0));
  sums.dy = dy.data<void>();
  sums.dw = dw.data<void>();
  sums.units = static_cast<int>(dw.dim(1));
  sums.heads = call.result(1).data<float>();
  sums.tails = call.result(2).data<float>();
  sums.tile = tile_of(sums.sets.num_values);
  sums.num_tiles = (sums.sets.num_values + sums.tile - 1) / sums.tile;
  const std::string type = type_name(dy.type());
  if (!has_slots) queue.clear(sums.dw, dw.size() * (type == "f32" ? 4 : 2));
  const Grid grid(sums.units);
  const std::string suffix = type + "_" + std::to_string(grid.columns);
  for (const char* kernel : {"multi_hot_sum_tiles_", "multi_hot_sum_runs_"}) {
    queue.launch(kernel + suffix, blocks_for(sums.num_tiles, kSumWarps), grid.of_columns, 32 * kSumWarps,
                 sums);
  }
}

// (the index of L batches, the step [], maybe weights [L, N]) -> ids [n], num [1], slots [at least N], what
// only a host writes, and workspace: counts
void touch_sorted_call(const Call& call, Queue& queue) {
  DeviceSets sets = {};
  const SortedIndex index = index_of(call, 0, &sets);
  sets.num_tokens = static_cast<int>(call.attribute<int64_t>("num_tokens"));
  const Sort at(sets.num_values, sets.num_tokens);
  const Buffer ids = call.result(0), counts = call.result(call.num_results() - 1);
  const TouchArguments arguments = {
      sets, index.keys, counts.data<int32_t>(), ids.data<int32_t>(), call.result(1).data<int32_t>(),
      call.result(2).data<int32_t>(), static_cast<int>(ids.size()), at.num_segments, at.segment};
  for (const char* kernel : {"multi_hot_count_ids", "multi_hot_place_ids"}) {
    queue.launch(kernel, at.num_segments, 1, kSortThreads, arguments);
  }
}

// (step [1], rate and factor [2], gradients [n, H], ids, num, what only a host reads, a table and its
// slots) -> the table and its slots, in place
void update_rows_call(const Call& call, Queue& queue) {
  const Buffer ids = call.operand(3);
  const UpdateArguments arguments = {
      update_of(call), call.operand(0).data<Int64>(), call.operand(1).data<float>(),
      call.operand(2).data<float>(), ids.data<int32_t>(), call.operand(4).data<int32_t>()};
  queue.launch("multi_hot_update_rows_" + type_name(call.result(0).type()), blocks_for_rows(ids.size()), 1,
               32 * kUpdateWarps, arguments);
}

// (step [1], ids, num, decays [2, R + 1], centers [S], terms [S, kTerms, L], a table of exact Adam and its
// slots) -> the table and its slots, in place
void catch_up_call(const Call& call, Queue& queue) {
  const Buffer ids = call.operand(1);
  const CatchUpArguments arguments = {catch_up_of(call), call.operand(0).data<Int64>(),
                                      ids.data<int32_t>(), call.operand(2).data<int32_t>()};
  // Whether it is all rows is not known here.
  const int64_t num_rows = std::max<int64_t>(ids.size(), arguments.row.table.num_tokens / 64);
  queue.launch("multi_hot_catch_up", blocks_for_rows(num_rows), 1, 32 * kUpdateWarps, arguments);
}

// XLA may record what a call launches into a CUDA graph, and launch that again.
template <void kernel(const Call& call, Queue& queue)>
constexpr XLA_FFI_Handler* kHandler =
    handler<Queue, kernel, XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE>;

const Target kTargets[] = {{"multi_hot_cuda_forward", kHandler<forward_call>},
                           {"multi_hot_cuda_index", kHandler<index_call>},
                           {"multi_hot_cuda_gradient", kHandler<gradient_call<false>>},
                           {"multi_hot_cuda_touch_sorted", kHandler<touch_sorted_call>},
                           {"multi_hot_cuda_row_gradients", kHandler<gradient_call<true>>},
                           {"multi_hot_cuda_update_rows", kHandler<update_rows_call>},
                           {"multi_hot_cuda_catch_up", kHandler<catch_up_call>}};

}  // namespace
}  // namespace multi_hot

extern "C" {

// Registers the handlers with the XLA of this process; returns whether it takes them.
bool multi_hot_register(const XLA_FFI_Api* api) {
  return multi_hot::take(api, "CUDA", multi_hot::kTargets);
}

// Returns a handler, for another XLA than TensorFlow's; null from the end on.
XLA_FFI_Handler* multi_hot_cuda_handler(std::size_t place, const char** name) {
  if (place >= std::size(multi_hot::kTargets)) return nullptr;
  *name = multi_hot::kTargets[place].name;
  return multi_hot::kTargets[place].handler;
}

// The sizes of workspaces: the counts of a batch's sort, and the tiles of its sums.
int64_t multi_hot_cuda_counts(int64_t num_values, int64_t num_tokens) {
  const multi_hot::Sort sort(num_values, num_tokens);
  return int64_t{sort.num_segments} << sort.digit_bits;
}
int64_t multi_hot_cuda_tiles(int64_t num_values) {
  return multi_hot::blocks_for(num_values, multi_hot::tile_of(num_values));
}

// Hands over the kernels that were compiled for a compute capability, in ascending order.
void multi_hot_cuda_add(const void* image, std::size_t size) {
  multi_hot::Modules::get().add(image, size);
}
}
