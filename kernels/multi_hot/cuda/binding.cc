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

// The entries of a tile of sums: about 8192 tiles, so that all cores of a large card have some, but larger
// tiles where they suffice, since every tile of a frequent id is one more partial sum.
int tile_of(int64_t num_values) {
  return static_cast<int>(std::clamp<int64_t>(num_values / 8192 / 32 * 32, 32, 256));
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

// (table [V, H], values [L, N], row_splits [L, B + 1], the step [], maybe weights [L, N]) -> y [B, H].
// Without weights, no row holds an id twice.
void forward_call(const Call& call, Queue& queue) {
  const Buffer table = call.operand(0), values = call.operand(1), splits = call.operand(2);
  const int64_t V = table.dim(0), N = values.dim(1), B = splits.dim(1) - 1;
  // Positions are counted in int32, and a little beyond them.
  if (N > INT_MAX - 4096 || B > INT_MAX - 4096 || V > INT_MAX - 1) {
    throw std::invalid_argument("a batch may hold up to 2^31 ids and rows");
  }
  if (B == 0) return;
  DeviceSets sets = {};
  sets.values = values.memory();
  sets.splits = splits.data<int32_t>();
  sets.narrow_ids = values.type() == XLA_FFI_DataType_U16;
  sets.num_values = static_cast<int>(N);
  sets.num_rows = static_cast<int>(B);
  sets.num_tokens = static_cast<int>(V);
  sets.num_steps = static_cast<int>(splits.dim(0));
  read_rest(call, 3, &sets);
  const int units = static_cast<int>(table.dim(1));
  const Grid grid(units);
  queue.launch("multi_hot_forward_" + type_name(table.type()) + "_" + std::to_string(grid.columns),
               blocks_for(sets.num_rows, kForwardWarps), grid.of_columns, 32 * kForwardWarps,
               ForwardArguments{sets, table.memory(), call.result(0).memory(), units});
}

// (dy [B, H], the entries of L batches by id: faults [L], rows and keys [L, N], maybe weights [L, N]; the
// step []) -> dW [V, H], and the workspace: heads and tails [tiles, H]. Of touched rows, whose slots are
// the keys, dW has anything behind the last.
template <bool of_touched_rows>
void gradient_call(const Call& call, Queue& queue) {
  const Buffer dy = call.operand(0), faults = call.operand(1), keys = call.operand(3);
  const Buffer dw = call.result(0);
  if (dw.size() == 0) return;
  DeviceSets sets = {};
  sets.num_steps = static_cast<int>(faults.size());
  sets.num_values = static_cast<int>(keys.dim(1));
  sets.num_tokens = static_cast<int>(dw.dim(0));
  read_rest(call, 4, &sets);
  const int units = static_cast<int>(dw.dim(1));
  const Grid grid(units);
  const Buffer heads = call.result(1);
  const SumArguments sums = {
      sets, faults.data<int32_t>(), call.operand(2).data<int32_t>(), keys.data<int32_t>(),
      dy.memory(), dw.memory(), units, heads.data<float>(), call.result(2).data<float>(),
      static_cast<int>(heads.dim(0)), tile_of(sets.num_values)};
  const std::string type = type_name(dy.type());
  if (!of_touched_rows) queue.clear(dw.memory(), dw.size() * (type == "f32" ? 4 : 2));
  const std::string suffix = type + "_" + std::to_string(grid.columns);
  for (const char* kernel : {"multi_hot_sum_tiles_", "multi_hot_sum_runs_"}) {
    queue.launch(kernel + suffix, blocks_for(sums.num_tiles, kSumWarps), grid.of_columns,
                 32 * kSumWarps, sums);
  }
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
                           {"multi_hot_cuda_gradient", kHandler<gradient_call<false>>},
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

// The tiles of a gradient's sums, which each have a row of its workspace.
int64_t multi_hot_cuda_tiles(int64_t num_values) {
  const int tile = multi_hot::tile_of(num_values);
  return (num_values + tile - 1) / tile;
}

// Hands over the kernels that were compiled for a compute capability, in ascending order.
void multi_hot_cuda_add(const void* image, std::size_t size) {
  multi_hot::Modules::get().add(image, size);
}
}
