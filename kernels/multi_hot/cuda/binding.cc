// The CUDA kernels as custom calls through XLA's foreign function interface. A call launches its kernels
// on XLA's stream and returns; what it needs of memory beside is XLA's.
//
// Shapes: B rows, V num_tokens, H units, N values; R resident rows, M their ids, C a batch's capacity.
#include <cstdint>
#include <string>

#include "calls.h"
#include "driver.h"
#include "passes.h"
#include "row_calls.h"

namespace multi_hot {
namespace {

// (table [V, H], values [N], row_splits [B + 1], maybe weights [N]) -> y [B, H]; each of the sets
// for several steps, then also the step []
ffi::Error forward_call(void* stream, ffi::AnyBuffer table, ffi::AnyBuffer values,
                        ffi::AnyBuffer splits, ffi::RemainingArgs remaining, bool unique,
                        ffi::Result<ffi::AnyBuffer> y) {
  const char* type = kernel_type(table.element_type());
  if (type == nullptr) return refused("tables are float32, bfloat16 or float16");
  DeviceSets sets;
  std::string fault = read_sets(values, splits, table.dimensions()[0], &sets);
  if (fault.empty()) fault = read_remaining(remaining, values, &sets);
  if (!fault.empty()) return refused(fault);
  DriverQueue queue = {stream};
  return reported(run_forward(queue, type, sets, unique, table.untyped_data(),
                              static_cast<int>(table.dimensions()[1]), y->untyped_data()));
}

// (dy [B, H], values [N], row_splits [B + 1], maybe weights [N]) -> dW [V, H], and the workspace
ffi::Error backward_call(void* stream, ffi::AnyBuffer dy, ffi::AnyBuffer values,
                         ffi::AnyBuffer splits, ffi::RemainingArgs remaining,
                         ffi::Result<ffi::AnyBuffer> dw, ffi::ResultBuffer<ffi::S32> workspace) {
  const char* type = kernel_type(dy.element_type());
  if (type == nullptr) return refused("gradients are float32, bfloat16 or float16");
  const int64_t V = dw->dimensions()[0], H = dw->dimensions()[1];
  DeviceSets sets;
  std::string fault = read_sets(values, splits, V, &sets);
  if (fault.empty()) fault = read_remaining(remaining, values, &sets);
  if (!fault.empty()) return refused(fault);
  if (sets.num_steps > 1) return refused("several batches are sorted before their loop");
  const IndexWorkspace at(sets.num_values, V);
  const int64_t size = at.size + SumWorkspace(sets.num_values, H).size;
  if (static_cast<int64_t>(workspace->element_count()) < size) return too_small();
  DriverQueue queue = {stream};
  int* const memory = workspace->typed_data();
  fault = run_index(queue, sets, at.in(memory), memory);
  if (!fault.empty()) return reported(fault);
  return reported(run_gradient(queue, type, sets, at.in(memory), dy.untyped_data(),
                               static_cast<int>(H), dw->untyped_data(), memory + at.size));
}

// (values [L, N], row_splits [L, B + 1]) -> the index of L batches: faults [L], rows, keys and
// positions [L, N]; and the workspace
ffi::Error index_call(void* stream, ffi::AnyBuffer values, ffi::AnyBuffer splits, int64_t num_tokens,
                      ffi::Result<Ints> faults, ffi::Result<Ints> rows, ffi::Result<Ints> keys,
                      ffi::Result<Ints> positions, ffi::Result<Ints> workspace) {
  DeviceSets sets;
  const std::string fault = read_sets(values, splits, num_tokens, &sets);
  if (!fault.empty()) return refused(fault);
  const SortWorkspace at(sets.num_steps, sets.num_values, num_tokens);
  if (static_cast<int64_t>(workspace->element_count()) < at.size) return too_small();
  DriverQueue queue = {stream};
  const Index index = {faults->typed_data(), rows->typed_data(), keys->typed_data(),
                       positions->typed_data()};
  return reported(run_index(queue, sets, index, workspace->typed_data()));
}

// (dy [B, H], the index of L batches, the step [], maybe weights [L, N]) -> dW [V, H], and the
// workspace
ffi::Error gradient_call(void* stream, ffi::AnyBuffer dy, Ints faults, Ints rows, Ints keys,
                         Ints positions, ffi::RemainingArgs remaining,
                         ffi::Result<ffi::AnyBuffer> dw, ffi::Result<Ints> workspace) {
  const char* type = kernel_type(dy.element_type());
  if (type == nullptr) return refused("gradients are float32, bfloat16 or float16");
  DeviceSets sets = {};
  sets.num_steps = static_cast<int>(faults.element_count());
  sets.num_values = static_cast<int>(keys.dimensions().back());
  sets.num_tokens = static_cast<int>(dw->dimensions()[0]);
  const std::string fault = read_remaining(remaining, keys, &sets);
  if (!fault.empty()) return refused(fault);
  const int64_t H = dw->dimensions()[1];
  if (static_cast<int64_t>(workspace->element_count()) < SumWorkspace(sets.num_values, H).size) {
    return too_small();
  }
  DriverQueue queue = {stream};
  const Index index = {faults.typed_data(), rows.typed_data(), keys.typed_data(),
                       positions.typed_data()};
  return reported(run_gradient(queue, type, sets, index, dy.untyped_data(), static_cast<int>(H),
                               dw->untyped_data(), workspace->typed_data()));
}

// (values [M], row_splits [R + 1], rows [B], maybe weights [M])
//   -> values [C], row_splits [B + 1], maybe weights [C]
ffi::Error take_rows_call(void* stream, ffi::AnyBuffer values, ffi::AnyBuffer splits,
                          ffi::Buffer<ffi::S32> rows, ffi::RemainingArgs weights,
                          ffi::ResultBuffer<ffi::S32> taken, ffi::ResultBuffer<ffi::S32> row_splits,
                          ffi::RemainingRets taken_weights) {
  TakeArguments a = {};
  a.wide_ids = values.element_type() == Type::U32;
  a.wide_splits = splits.element_type() == Type::S64;
  if ((!a.wide_ids && values.element_type() != Type::U16) ||
      (!a.wide_splits && splits.element_type() != Type::S32)) {
    return refused("resident ids are uint16 or uint32, and their row_splits int32 or int64");
  }
  a.values = values.untyped_data();
  a.splits = splits.untyped_data();
  a.rows = rows.typed_data();
  a.taken = taken->typed_data();
  a.row_splits = row_splits->typed_data();
  a.num_values = static_cast<int64_t>(values.element_count());
  a.num_resident = static_cast<int>(splits.element_count()) - 1;
  a.num_rows = static_cast<int>(rows.element_count());
  a.capacity = static_cast<int>(taken->element_count());
  if (weights.size() > 0) {
    const auto own = weights.get<ffi::Buffer<ffi::F32>>(0);
    auto copies = taken_weights.get<ffi::Buffer<ffi::F32>>(0);
    if (!own.has_value() || !copies.has_value() || own->element_count() != values.element_count() ||
        (*copies)->element_count() != taken->element_count()) {
      return refused("there must be one float32 weight for each value");
    }
    a.weights = own->typed_data();
    a.taken_weights = (*copies)->typed_data();
  }
  DriverQueue queue = {stream};
  return reported(run_take_rows(queue, a));
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(multi_hot_cuda_forward, forward_call,
                       ffi::Ffi::Bind()
                           .Ctx<Stream>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .RemainingArgs()
                           .Attr<bool>("unique")
                           .Ret<ffi::AnyBuffer>(),
                       kCapturable);
XLA_FFI_DEFINE_HANDLER_SYMBOL(multi_hot_cuda_backward, backward_call,
                       ffi::Ffi::Bind()
                           .Ctx<Stream>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .RemainingArgs()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<ffi::Buffer<ffi::S32>>(),
                       kCapturable);
XLA_FFI_DEFINE_HANDLER_SYMBOL(multi_hot_cuda_index, index_call,
                       ffi::Ffi::Bind()
                           .Ctx<Stream>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Attr<int64_t>("num_tokens")
                           .Ret<Ints>()
                           .Ret<Ints>()
                           .Ret<Ints>()
                           .Ret<Ints>()
                           .Ret<Ints>(),
                       kCapturable);
XLA_FFI_DEFINE_HANDLER_SYMBOL(multi_hot_cuda_gradient, gradient_call,
                       ffi::Ffi::Bind()
                           .Ctx<Stream>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<Ints>()
                           .Arg<Ints>()
                           .Arg<Ints>()
                           .Arg<Ints>()
                           .RemainingArgs()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<Ints>(),
                       kCapturable);
XLA_FFI_DEFINE_HANDLER_SYMBOL(multi_hot_cuda_take_rows, take_rows_call,
                       ffi::Ffi::Bind()
                           .Ctx<Stream>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::Buffer<ffi::S32>>()
                           .RemainingArgs()
                           .Ret<ffi::Buffer<ffi::S32>>()
                           .Ret<ffi::Buffer<ffi::S32>>()
                           .RemainingRets(),
                       kCapturable);

XLA_FFI_DEFINE_HANDLER_SYMBOL(multi_hot_cuda_touch, touch_call, touch_binding(), kCapturable);
XLA_FFI_DEFINE_HANDLER_SYMBOL(multi_hot_cuda_row_gradients, row_gradients_call,
                              row_gradients_binding(), kCapturable);
XLA_FFI_DEFINE_HANDLER_SYMBOL(multi_hot_cuda_update_rows, update_rows_call, update_rows_binding(),
                              kCapturable);
XLA_FFI_DEFINE_HANDLER_SYMBOL(multi_hot_cuda_catch_up, catch_up_call, catch_up_binding(), kCapturable);

}  // namespace
}  // namespace multi_hot

extern "C" {

// Registers the handlers with the XLA of this process; returns whether it takes them.
bool multi_hot_cuda_register(const XLA_FFI_Api* api) {
  using namespace multi_hot;
  const auto taken = [api](const char* name, XLA_FFI_Handler* handler) {
    return ffi::Ffi::RegisterStaticHandler(api, name, "CUDA", handler) == nullptr;
  };
  return taken("multi_hot_cuda_forward", multi_hot_cuda_forward) &&
         taken("multi_hot_cuda_backward", multi_hot_cuda_backward) &&
         taken("multi_hot_cuda_index", multi_hot_cuda_index) &&
         taken("multi_hot_cuda_gradient", multi_hot_cuda_gradient) &&
         taken("multi_hot_cuda_take_rows", multi_hot_cuda_take_rows) &&
         taken("multi_hot_cuda_touch", multi_hot_cuda_touch) &&
         taken("multi_hot_cuda_row_gradients", multi_hot_cuda_row_gradients) &&
         taken("multi_hot_cuda_update_rows", multi_hot_cuda_update_rows) &&
         taken("multi_hot_cuda_catch_up", multi_hot_cuda_catch_up);
}

// Hands over the kernels that were compiled for a compute capability.
void multi_hot_cuda_add(int major, int minor, const void* image, std::size_t size) {
  multi_hot::Modules::get().add(major, minor, image, size);
}
}
