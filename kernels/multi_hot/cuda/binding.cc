// The CUDA kernels as custom calls through XLA's foreign function interface. A call launches its kernels
// on XLA's stream and returns; what it needs of memory beside is XLA's.
//
// Shapes: B rows, V num_tokens, H units, N values, n = min(N, V) slots; R resident rows, M their ids, C a
// batch's capacity; L batches.
#include <algorithm>
#include <climits>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>

#include "../native/frame.h"
#include "../native/parts.h"
#include "driver.h"
#include "passes.h"

namespace multi_hot {
namespace {

// The name of a table's type in those of the kernels.
const char* type_name(XLA_FFI_DataType type) {
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

// (table [V, H], values [L, N], row_splits [L, B + 1], the step [], maybe weights [L, N]) -> y [B, H]
void forward_call(const Call& call, Queue& queue) {
  const Buffer table = call.operand(0);
  DeviceSets sets = sets_from(call.operand(1), call.operand(2), table.dim(0));
  read_rest(call, 3, &sets);
  run_forward(queue, type_name(table.type()), call.attribute<bool>("unique"),
              {sets, table.memory(), call.result(0).memory(),
               static_cast<int>(table.dim(1))});
}

// (values [L, N], row_splits [L, B + 1]) -> the index of L batches: faults [L], rows, keys and
// positions [L, N]; and the workspace
void index_call(const Call& call, Queue& queue) {
  const DeviceSets sets =
      sets_from(call.operand(0), call.operand(1), call.attribute<int64_t>("num_tokens"));
  const Index index = {call.result(0).data<int32_t>(), call.result(1).data<int32_t>(),
                       call.result(2).data<int32_t>(), call.result(3).data<int32_t>()};
  run_index(queue, sets, index, call.result(4).data<int32_t>());
}

// The index of L batches, with which operands begin at `place`; the rest go to `sets`.
Index index_of(const Call& call, int64_t place, DeviceSets* sets) {
  const Buffer faults = call.operand(place), keys = call.operand(place + 2);
  sets->num_steps = static_cast<int>(faults.size());
  sets->num_values = static_cast<int>(keys.dim(1));
  read_rest(call, place + 4, sets);
  return {faults.data<int32_t>(), call.operand(place + 1).data<int32_t>(), keys.data<int32_t>(),
          call.operand(place + 3).data<int32_t>()};
}

// (dy [B, H], the index of L batches, the step [], maybe weights [L, N]) -> dW [V, H], and the
// workspace
void gradient_call(const Call& call, Queue& queue) {
  const Buffer dy = call.operand(0), dw = call.result(0);
  DeviceSets sets = {};
  const Index index = index_of(call, 1, &sets);
  sets.num_tokens = static_cast<int>(dw.dim(0));
  const int units = static_cast<int>(dw.dim(1));
  run_gradient(queue, type_name(dy.type()), sets, index, dy.memory(), units, dw.memory(),
               call.result(1).data<int32_t>());
}

// (values [M], row_splits [R + 1], rows [B], maybe weights [M])
//   -> values [C], row_splits [B + 1], maybe weights [C]
void take_rows_call(const Call& call, Queue& queue) {
  const Buffer values = call.operand(0), splits = call.operand(1), rows = call.operand(2);
  const Buffer taken = call.result(0);
  TakeArguments a = {};
  a.values = values.memory();
  a.splits = splits.memory();
  a.wide_ids = values.type() == XLA_FFI_DataType_U32;
  a.wide_splits = splits.type() == XLA_FFI_DataType_S64;
  a.rows = rows.data<int32_t>();
  a.taken = taken.data<int32_t>();
  a.row_splits = call.result(1).data<int32_t>();
  a.num_values = values.size();
  a.num_resident = static_cast<int>(splits.size()) - 1;
  a.num_rows = static_cast<int>(rows.size());
  a.capacity = static_cast<int>(taken.size());
  if (call.num_operands() > 3) {
    a.weights = call.operand(3).data<float>();
    a.taken_weights = call.result(2).data<float>();
  }
  run_take_rows(queue, a);
}

// An index that was computed before, from its parts. Without weights their buffer is empty.
Touched touched_of(const Buffer& ids, const Buffer& slots, const Buffer& rows, const Buffer& num,
                   const Buffer& weights) {
  return {ids.data<int32_t>(), slots.data<int32_t>(), rows.data<int32_t>(), num.data<int32_t>(),
          weights.size() > 0 ? weights.data<float>() : nullptr,
          static_cast<int>(rows.size()), static_cast<int>(ids.size())};
}
Touched touched_from(const Call& call, int64_t place) {
  return touched_of(call.operand(place), call.operand(place + 1), call.operand(place + 2),
                    call.operand(place + 3), call.operand(place + 4));
}

// The results of a call that finds the rows that sets touch.
Touched touched_into(const Call& call) {
  return touched_of(call.result(0), call.result(1), call.result(2), call.result(3), call.result(4));
}

// (the index of L batches, the step [], maybe weights [L, N]) -> ids [n], slots [at least N + 1],
// rows [N], num [1], weights [N], and the workspace. Without weights theirs are empty.
void touch_sorted_call(const Call& call, Queue& queue) {
  DeviceSets sets = {};
  const Index index = index_of(call, 0, &sets);
  sets.num_tokens = static_cast<int>(call.attribute<int64_t>("num_tokens"));
  run_touch_sorted(queue, sets, index, touched_into(call), call.result(5).data<int32_t>());
}

// (dy [B, H], ids, slots, rows, num, weights)
//   -> gradients [n, H], their squares' sum [1], and the workspace
void row_gradients_call(const Call& call, Queue& queue) {
  const Buffer dy = call.operand(0);
  const Touched touched = touched_from(call, 1);
  const int units = static_cast<int>(dy.dim(1));
  int* const memory = call.result(2).data<int32_t>();
  float* const gradients = call.result(0).data<float>();
  run_row_gradients(queue, touched, dy.data<float>(), units, gradients, memory);
  run_squares(queue, touched, gradients, units, call.result(1).data<float>(), memory);
}

// (active [1], scalars [5], step [1], gradients, ids, slots, rows, num, weights, and the parts: a
// table [V, H] and its slots) -> the parts, in place; then with `from_dy` the workspace, whose
// last part [n, H] floats are the gradients.
// The gradients are rows [n, H], or with `from_dy` the dy [B, H] that they follow from.
void update_rows_call(const Call& call, Queue& queue) {
  constexpr int64_t kPlace = 9;
  const Parts parts = parts_in_place(call, kPlace);
  const Buffer gradients = call.operand(3);
  const Touched touched = touched_from(call, 4);
  const int units = static_cast<int>(gradients.dim(1));
  UpdateArguments a = {};
  a.update = update_of(call, parts, units);
  a.active = call.operand(0).data<int32_t>();
  a.scalars = call.operand(1).data<float>();
  a.step = call.operand(2).data<int64_t>();
  a.gradients = gradients.data<float>();
  a.ids = touched.ids;
  a.num = touched.num;
  a.table = parts.table;
  if (call.attribute<bool>("from_dy")) {
    int* const memory = call.result(call.num_operands() - kPlace).data<int32_t>();
    const int64_t sums = RowWorkspace(touched.num_values, units).size;
    float* const rows = reinterpret_cast<float*>(memory + sums);
    run_row_gradients(queue, touched, a.gradients, units, rows, memory);
    a.gradients = rows;
  }
  run_update(queue, type_name(parts.type), touched.num_slots, a);
}

// (active [1], all [1], step [1], ids, num, decays [2, R + 1], centers [S], terms [S, J, L], and the
// parts of exact Adam) -> the parts, in place
void catch_up_call(const Call& call, Queue& queue) {
  const Parts parts = parts_in_place(call, 8);
  const Buffer ids = call.operand(3);
  const CatchUpArguments a = {
      catch_up_of(call, parts), call.operand(0).data<int32_t>(), call.operand(1).data<int32_t>(),
      call.operand(2).data<int64_t>(), ids.data<int32_t>(), call.operand(4).data<int32_t>(),
      static_cast<int>(parts.num_tokens)};
  run_catch_up(queue, static_cast<int>(ids.size()), a);
}

// XLA may record what a call launches into a CUDA graph, and launch that again.
template <void kernel(const Call& call, Queue& queue)>
constexpr XLA_FFI_Handler* kHandler =
    handler<Queue, kernel, XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE>;

const Target kTargets[] = {{"multi_hot_cuda_forward", kHandler<forward_call>},
                           {"multi_hot_cuda_index", kHandler<index_call>},
                           {"multi_hot_cuda_gradient", kHandler<gradient_call>},
                           {"multi_hot_cuda_take_rows", kHandler<take_rows_call>},
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
int64_t multi_hot_cuda_row_words(int64_t num_values, int64_t units) {
  return multi_hot::RowWorkspace(num_values, units).size;
}

// Hands over the kernels that were compiled for a compute capability.
void multi_hot_cuda_add(int major, int minor, const void* image, std::size_t size) {
  multi_hot::Modules::get().add(major, minor, image, size);
}
}
