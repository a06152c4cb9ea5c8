// The kernels as custom calls through XLA's foreign function interface: buffers in, buffers out.
//
// Shapes: B rows, V num_tokens, H units, N values.
#include <cstdint>

#include "calls.h"
#include "product.h"
#include "sets.h"
#include "take_rows.h"

namespace multi_hot {
namespace {

ffi::Error run_backward(ffi::ThreadPool& pool, Floats& dy, const Sets& sets, Floats& dw,
                        Int32s& ends, ffi::Buffer<ffi::U16>& rows, float* weights) {
  const int64_t H = dw.dimensions()[1];
  const TransposedIndex index = {ends.typed_data(), ends.dimensions()[0], rows.typed_data(),
                                 weights};
  if (!index.admits(sets.num_rows) ||
      static_cast<int64_t>(rows.element_count()) < sets.num_values + TransposedIndex::kSlack) {
    return ffi::Error(ffi::ErrorCode::kInternal, "the workspace of the index is too small");
  }
  return run([&] { return backward(sets, dy.typed_data(), H, index, dw.typed_data(), pool); });
}

// (dy [B, H], values [N], row_splits [B + 1])
//   -> dW [V, H], and workspace: ends [C, V], rows [N + kSlack]
ffi::Error backward_call(ffi::ThreadPool pool, Floats dy, Int32s values, Int64s splits, bool unique,
                         ffi::Result<Floats> dw, ffi::Result<Int32s> ends,
                         ffi::ResultBuffer<ffi::U16> rows) {
  const Sets sets = make_sets(values, splits, dw->dimensions()[0], unique);
  return run_backward(pool, dy, sets, *dw, *ends, *rows, nullptr);
}

// The same with weights [N], and as much workspace for them
ffi::Error weighted_backward_call(ffi::ThreadPool pool, Floats dy, Int32s values, Int64s splits,
                                  Floats weights, ffi::Result<Floats> dw, ffi::Result<Int32s> ends,
                                  ffi::ResultBuffer<ffi::U16> rows, ffi::Result<Floats> placed) {
  if (placed->element_count() < values.element_count()) {
    return ffi::Error(ffi::ErrorCode::kInternal, "the workspace of the weights is too small");
  }
  return with_weights(values, weights, [&] {
    const int64_t V = dw->dimensions()[0];
    const Sets sets = make_sets(values, splits, V, false, weights.typed_data());
    return run_backward(pool, dy, sets, *dw, *ends, *rows, placed->typed_data());
  });
}

constexpr auto* forward_floats = forward_call<float, Floats>;
constexpr auto* weighted_forward_floats = weighted_forward_call<float, Floats>;
XLA_FFI_DEFINE_HANDLER_SYMBOL(kForward, forward_floats, product_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(kWeightedForward, weighted_forward_floats, weighted_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(kBackward, backward_call,
                              product_binding().Ret<Int32s>().Ret<ffi::Buffer<ffi::U16>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    kWeightedBackward, weighted_backward_call,
    weighted_binding().Ret<Int32s>().Ret<ffi::Buffer<ffi::U16>>().Ret<Floats>());

ffi::Error run_take_rows(ffi::ThreadPool& pool, ffi::AnyBuffer& values, Int64s& splits,
                         Int32s& rows, const float* weights, Int32s& taken, Int32s& row_splits,
                         float* taken_weights) {
  const auto take = [&](auto id) {
    using Id = decltype(id);
    const ResidentSets<Id> sets = {static_cast<const Id*>(values.untyped_data()),
                                   static_cast<int64_t>(values.element_count()),
                                   splits.typed_data(),
                                   static_cast<int64_t>(splits.element_count()) - 1, weights};
    return run([&] {
      return take_rows(sets, rows.typed_data(), static_cast<int64_t>(rows.element_count()),
                       static_cast<int64_t>(taken.element_count()), row_splits.typed_data(),
                       taken.typed_data(), taken_weights, pool);
    });
  };
  switch (values.element_type()) {
    case ffi::DataType::U16: return take(uint16_t());
    case ffi::DataType::U32: return take(uint32_t());
    default: return ffi::Error::InvalidArgument("resident ids are uint16 or uint32");
  }
}

// (values [M], row_splits [R + 1], rows [B]) -> values [C], row_splits [B + 1]
ffi::Error take_rows_call(ffi::ThreadPool pool, ffi::AnyBuffer values, Int64s splits, Int32s rows,
                          ffi::Result<Int32s> taken, ffi::Result<Int32s> row_splits) {
  return run_take_rows(pool, values, splits, rows, nullptr, *taken, *row_splits, nullptr);
}

// The same with weights [M] -> weights [C]
ffi::Error take_weighted_rows_call(ffi::ThreadPool pool, ffi::AnyBuffer values, Int64s splits,
                                   Int32s rows, Floats weights, ffi::Result<Int32s> taken,
                                   ffi::Result<Int32s> row_splits,
                                   ffi::Result<Floats> taken_weights) {
  if (weights.element_count() != values.element_count() ||
      taken_weights->element_count() != taken->element_count()) {
    return ffi::Error::InvalidArgument("there must be one weight for each value");
  }
  return run_take_rows(pool, values, splits, rows, weights.typed_data(), *taken, *row_splits,
                       taken_weights->typed_data());
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(kTakeRows, take_rows_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Int64s>()
                                  .Arg<Int32s>()
                                  .Ret<Int32s>()
                                  .Ret<Int32s>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(kTakeWeightedRows, take_weighted_rows_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Int64s>()
                                  .Arg<Int32s>()
                                  .Arg<Floats>()
                                  .Ret<Int32s>()
                                  .Ret<Int32s>()
                                  .Ret<Floats>());

}  // namespace
}  // namespace multi_hot

// Registers the handlers with the XLA of this process; returns whether it takes them.
extern "C" bool multi_hot_register(const XLA_FFI_Api* api) {
  using namespace multi_hot;
  const auto taken = [api](const char* name, XLA_FFI_Handler* handler) {
    return ffi::Ffi::RegisterStaticHandler(api, name, "Host", handler) == nullptr;
  };
  return taken("multi_hot_forward", kForward) && taken("multi_hot_backward", kBackward) &&
         taken("multi_hot_take_rows", kTakeRows) &&
         taken("multi_hot_weighted_forward", kWeightedForward) &&
         taken("multi_hot_weighted_backward", kWeightedBackward) &&
         taken("multi_hot_take_weighted_rows", kTakeWeightedRows);
}
