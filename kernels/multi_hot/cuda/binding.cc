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
#include "../native/parts.h"
#include "arguments.h"
#include "driver.h"

namespace multi_hot {
namespace {

constexpr int64_t kSegments = 256;  // of a sort, at most: each of its blocks reads the counts of all
constexpr int64_t kTiles = 8192;    // of sums, about, so that all cores of a large card have some
constexpr int64_t kAlign = 32;      // of what lies in a workspace, in units of 4 bytes

int64_t aligned(int64_t words) { return (words + kAlign - 1) / kAlign * kAlign; }

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

// Where things lie that the sort of some batches needs beside the index, in units of 4 bytes.
struct SortWorkspace {
  int digit_bits, num_passes, segment, num_segments;
  int64_t positions, counts, size;  // keys lie first

  SortWorkspace(int64_t num_batches, int64_t num_values, int64_t num_tokens) {
    int bits = 1;  // of the largest key, V
    while (num_tokens >> bits) ++bits;
    num_passes = (bits + kMaxDigitBits - 1) / kMaxDigitBits;
    digit_bits = (bits + num_passes - 1) / num_passes;
    const int64_t entries = std::max<int64_t>(1, num_values);
    segment = static_cast<int>(
        blocks_for(blocks_for(entries, kSegments), kSortThreads) * int64_t{kSortThreads});
    num_segments = static_cast<int>(blocks_for(entries, segment));
    positions = aligned(num_batches * num_values);
    counts = 2 * positions;
    size = counts + aligned(num_batches * num_segments << digit_bits);
  }
};

// The tiles that sums of the sorted entries are divided into, and where the tiles' sums lie.
struct SumWorkspace {
  int tile, num_tiles;
  int64_t tails, size;  // heads lie first

  SumWorkspace(int64_t num_values, int64_t units) {
    const int64_t entries = std::max<int64_t>(1, num_values);
    // Larger tiles where they suffice: every tile of a frequent id is one more partial sum.
    tile = static_cast<int>(std::clamp<int64_t>(entries / kTiles / 32 * 32, 32, 256));
    num_tiles = static_cast<int>(blocks_for(entries, tile));
    tails = aligned(num_tiles * units);
    size = 2 * tails;
  }
};

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
  sets.values = values.memory();
  sets.splits = splits.memory();
  sets.narrow_ids = values.type() == XLA_FFI_DataType_U16;
  sets.wide_splits = splits.type() == XLA_FFI_DataType_S64;
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

// Batches of entries sorted by id.
struct Index {
  int* faults;     // [L]
  int* rows;       // [L, N], of each position
  int* keys;       // [L, N]
  int* positions;  // [L, N]
};

// The index of L batches, with which operands begin at `place`; the rest go to `sets`.
Index index_of(const Call& call, int64_t place, DeviceSets* sets) {
  const Buffer faults = call.operand(place), keys = call.operand(place + 2);
  sets->num_steps = static_cast<int>(faults.size());
  sets->num_values = static_cast<int>(keys.dim(1));
  read_rest(call, place + 4, sets);
  return {faults.data<int32_t>(), call.operand(place + 1).data<int32_t>(), keys.data<int32_t>(),
          call.operand(place + 3).data<int32_t>()};
}

// The weights of touched rows, whose buffer is empty where there are none.
float* weights_in(const Buffer& weights) {
  return weights.size() > 0 ? weights.data<float>() : nullptr;
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
               ForwardArguments{sets, table.memory(), call.result(0).memory(), units});
}

// (values [L, N], row_splits [L, B + 1]) -> the index of L batches: faults [L], rows, keys and
// positions [L, N]; and the workspace
void index_call(const Call& call, Queue& queue) {
  const DeviceSets sets =
      sets_from(call.operand(0), call.operand(1), call.attribute<int64_t>("num_tokens"));
  int* const faults = call.result(0).data<int32_t>();
  int* const memory = call.result(4).data<int32_t>();
  const int num_batches = sets.num_steps;
  const SortWorkspace at(num_batches, sets.num_values, sets.num_tokens);
  queue.clear(faults, num_batches * sizeof(int));
  queue.launch("multi_hot_prepare", blocks_for(int64_t{sets.num_rows} * 32, kPrepareThreads),
               num_batches, kPrepareThreads,
               PrepareArguments{sets, faults, call.result(1).data<int32_t>()});
  SortArguments sort = {sets, nullptr, nullptr, memory + at.counts, nullptr, nullptr,
                        at.num_segments, at.segment, 0, at.digit_bits};
  for (int pass = 0; pass < at.num_passes; ++pass) {
    const bool is_kept = (at.num_passes - pass) % 2;  // so that the last pass writes the index
    sort.sorted_keys = is_kept ? call.result(2).data<int32_t>() : memory;
    sort.sorted_positions = is_kept ? call.result(3).data<int32_t>() : memory + at.positions;
    sort.shift = pass * at.digit_bits;
    for (const char* kernel : {"multi_hot_count", "multi_hot_scatter"}) {
      queue.launch(kernel, at.num_segments, num_batches, kSortThreads, sort);
    }
    sort.keys = sort.sorted_keys;
    sort.positions = sort.sorted_positions;
  }
}

// The sums of the sorted entries. `sums` lacks the tiles, whose sums lie in `memory`.
void add_up(Queue& queue, const std::string& type, SumArguments sums, int* memory) {
  const SumWorkspace at(sums.sets.num_values, sums.units);
  const Grid grid(sums.units);
  sums.heads = reinterpret_cast<float*>(memory);
  sums.tails = reinterpret_cast<float*>(memory + at.tails);
  sums.num_tiles = sums.sets.num_values == 0 ? 0 : at.num_tiles;
  sums.tile = at.tile;
  const std::string suffix = type + "_" + std::to_string(grid.columns);
  for (const char* kernel : {"multi_hot_sum_tiles_", "multi_hot_sum_runs_"}) {
    queue.launch(kernel + suffix, blocks_for(at.num_tiles, kSumWarps), grid.of_columns, 32 * kSumWarps,
                 sums);
  }
}

// (dy [B, H], the index of L batches, the step [], maybe weights [L, N]) -> dW [V, H], and the
// workspace
void gradient_call(const Call& call, Queue& queue) {
  const Buffer dy = call.operand(0), dw = call.result(0);
  DeviceSets sets = {};
  const Index index = index_of(call, 1, &sets);
  sets.num_tokens = static_cast<int>(dw.dim(0));
  const std::string type = type_name(dy.type());
  queue.clear(dw.memory(), dw.size() * (type == "f32" ? 4 : 2));
  add_up(queue, type,
         {sets, index.faults, index.rows, index.keys, index.positions, dy.memory(), dw.memory(),
          static_cast<int>(dw.dim(1))},
         call.result(1).data<int32_t>());
}

// (the index of L batches, the step [], maybe weights [L, N]) -> ids [n], slots [at least N + 1],
// rows [N], num [1], weights [N], and the workspace [kSegments]. Without weights theirs are empty.
void touch_sorted_call(const Call& call, Queue& queue) {
  DeviceSets sets = {};
  const Index index = index_of(call, 0, &sets);
  sets.num_tokens = static_cast<int>(call.attribute<int64_t>("num_tokens"));
  const SortWorkspace at(1, sets.num_values, sets.num_tokens);
  const Buffer ids = call.result(0);
  const TouchArguments arguments = {
      sets, index.faults, index.rows, index.keys, index.positions, call.result(5).data<int32_t>(),
      ids.data<int32_t>(), call.result(3).data<int32_t>(), call.result(1).data<int32_t>(),
      call.result(2).data<int32_t>(), weights_in(call.result(4)), static_cast<int>(ids.size()),
      at.num_segments, at.segment};
  for (const char* kernel : {"multi_hot_count_ids", "multi_hot_place_ids"}) {
    queue.launch(kernel, at.num_segments, 1, kSortThreads, arguments);
  }
}

// (dy [B, H], ids, slots, rows, num, weights) -> gradients [n, H], and anything behind the touched
// rows'; and the workspace
void row_gradients_call(const Call& call, Queue& queue) {
  const Buffer dy = call.operand(0), rows = call.operand(3);
  int* const slots = call.operand(2).data<int32_t>();
  DeviceSets sets = {};
  sets.weights = weights_in(call.operand(5));
  sets.num_values = static_cast<int>(rows.size());
  sets.num_tokens = static_cast<int>(call.operand(1).size());
  add_up(queue, "f32",
         {sets, slots + sets.num_values, rows.data<int32_t>(), slots, nullptr, dy.memory(),
          call.result(0).memory(), static_cast<int>(dy.dim(1))},
         call.result(1).data<int32_t>());
}

// (active [1], scalars [5], step [1], gradients [n, H], ids, slots, rows, num, weights, and the parts:
// a table [V, H] and its slots) -> the parts, in place
void update_rows_call(const Call& call, Queue& queue) {
  const Parts parts = parts_in_place(call, 9);
  const Buffer gradients = call.operand(3), ids = call.operand(4);
  const UpdateArguments arguments = {
      update_of(call, parts, gradients.dim(1)), call.operand(0).data<int32_t>(),
      call.operand(1).data<float>(), call.operand(2).data<int64_t>(), gradients.data<float>(),
      ids.data<int32_t>(), call.operand(7).data<int32_t>(), parts.table};
  queue.launch("multi_hot_update_rows_" + type_name(parts.type), blocks_for_rows(ids.size()), 1,
               32 * kUpdateWarps, arguments);
}

// (active [1], all [1], step [1], ids, num, decays [2, R + 1], centers [S], terms [S, J, L], and the
// parts of exact Adam) -> the parts, in place
void catch_up_call(const Call& call, Queue& queue) {
  const Parts parts = parts_in_place(call, 8);
  const Buffer ids = call.operand(3);
  const CatchUpArguments arguments = {
      catch_up_of(call, parts), call.operand(0).data<int32_t>(), call.operand(1).data<int32_t>(),
      call.operand(2).data<int64_t>(), ids.data<int32_t>(), call.operand(4).data<int32_t>(),
      static_cast<int>(parts.num_tokens)};
  // Whether it is all rows is not known here.
  const int64_t num_rows = std::max(ids.size(), parts.num_tokens / 64);
  queue.launch("multi_hot_catch_up", blocks_for_rows(num_rows), 1, 32 * kUpdateWarps, arguments);
}

// XLA may record what a call launches into a CUDA graph, and launch that again.
template <void kernel(const Call& call, Queue& queue)>
constexpr XLA_FFI_Handler* kHandler =
    handler<Queue, kernel, XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE>;

const Target kTargets[] = {{"multi_hot_cuda_forward", kHandler<forward_call>},
                           {"multi_hot_cuda_index", kHandler<index_call>},
                           {"multi_hot_cuda_gradient", kHandler<gradient_call>},
                           {"multi_hot_cuda_touch_sorted", kHandler<touch_sorted_call>},
                           {"multi_hot_cuda_row_gradients", kHandler<row_gradients_call>},
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

// The sizes of workspaces, in units of 4 bytes.
int64_t multi_hot_cuda_sort_words(int64_t num_batches, int64_t num_values, int64_t num_tokens) {
  return multi_hot::SortWorkspace(num_batches, num_values, num_tokens).size;
}
int64_t multi_hot_cuda_sum_words(int64_t num_values, int64_t units) {
  return multi_hot::SumWorkspace(num_values, units).size;
}

// Hands over the kernels that were compiled for a compute capability, in ascending order.
void multi_hot_cuda_add(const void* image, std::size_t size) {
  multi_hot::Modules::get().add(image, size);
}
}
