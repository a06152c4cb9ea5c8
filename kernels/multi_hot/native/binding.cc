// The kernels as custom calls through XLA's foreign function interface: buffers in, buffers out.
//
// Shapes: B rows, V num_tokens, H units, N values.
#include <cstdint>
#include <stdexcept>

#include "calls.h"
#include "product.h"
#include "sets.h"
#include "take_rows.h"

namespace multi_hot {
namespace {

// (dy [B, H], values [N], row_splits [B + 1]; weights [N] where ids have weights)
//   -> dW [V, H], and workspace: ends [C, V], rows [N + kSlack]; for weights [N]
ffi::Error backward_call(ffi::ThreadPool pool, Floats dy, Int32s values, Int64s splits,
                         ffi::RemainingArgs rest, bool unique, ffi::Result<Floats> dw,
                         ffi::Result<Int32s> ends, ffi::ResultBuffer<ffi::U16> rows,
                         ffi::RemainingRets for_weights) {
  const int64_t V = dw->dimensions()[0], H = dw->dimensions()[1];
  const auto weights = weights_of(rest, values.element_count());
  return run_with_sets(values, splits, weights, V, unique, [&](const Sets& sets) -> std::string {
    TransposedIndex index = {ends->typed_data(), ends->dimensions()[0], rows->typed_data(),
                             nullptr};
    const auto room = [](const auto& buffer) {
      return static_cast<int64_t>(buffer.element_count());
    };
    bool fits = index.admits(sets.num_rows) &&
                room(*rows) >= sets.num_values + TransposedIndex::kSlack;
    if (sets.weights != nullptr) {
      auto placed = for_weights.get<Floats>(0);
      fits = fits && placed.has_value() && room(**placed) >= sets.num_values;
      if (fits) index.weights = (*placed)->typed_data();
    }
    if (!fits) throw std::logic_error("the workspace of the index is too small");
    return backward(sets, dy.typed_data(), H, index, dw->typed_data(), pool);
  });
}

constexpr auto* forward_floats = forward_call<float, Floats>;
XLA_FFI_DEFINE_HANDLER_SYMBOL(kForward, forward_floats, product_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    kBackward, backward_call,
    product_binding().Ret<Int32s>().Ret<ffi::Buffer<ffi::U16>>().RemainingRets());

// (values [M], row_splits [R + 1], rows [B]; weights [M] where ids have weights)
//   -> values [C], row_splits [B + 1]; weights [C]
ffi::Error take_rows_call(ffi::ThreadPool pool, ffi::AnyBuffer values, Int64s splits, Int32s rows,
                          ffi::RemainingArgs rest, ffi::Result<Int32s> taken,
                          ffi::Result<Int32s> row_splits, ffi::RemainingRets for_weights) {
  const int64_t num_values = values.element_count(), capacity = taken->element_count();
  const auto weights = weights_of(rest, num_values);
  if (!weights.has_value()) return weights.error();
  float* taken_weights = nullptr;
  if (for_weights.size() > 0) {
    auto result = for_weights.get<Floats>(0);
    if (!result.has_value() || static_cast<int64_t>((*result)->element_count()) != capacity) {
      return ffi::Error::InvalidArgument("there must be one weight for each value");
    }
    taken_weights = (*result)->typed_data();
  }
  const auto take = [&](auto id) {
    using Id = decltype(id);
    const ResidentSets<Id> sets = {static_cast<const Id*>(values.untyped_data()), num_values,
                                   splits.typed_data(),
                                   static_cast<int64_t>(splits.element_count()) - 1, *weights};
    return run([&] {
      return take_rows(sets, rows.typed_data(), static_cast<int64_t>(rows.element_count()),
                       capacity, row_splits->typed_data(), taken->typed_data(), taken_weights,
                       pool);
    });
  };
  switch (values.element_type()) {
    case ffi::DataType::U16: return take(uint16_t());
    case ffi::DataType::U32: return take(uint32_t());
    default: return ffi::Error::InvalidArgument("resident ids are uint16 or uint32");
  }
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(kTakeRows, take_rows_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Int64s>()
                                  .Arg<Int32s>()
                                  .RemainingArgs()
                                  .Ret<Int32s>()
                                  .Ret<Int32s>()
                                  .RemainingRets());

}  // namespace
}  // namespace multi_hot

// Registers the handlers with the XLA of this process; returns whether it takes them.
extern "C" bool multi_hot_register(const XLA_FFI_Api* api) {
  using namespace multi_hot;
  const auto taken = [api](const char* name, XLA_FFI_Handler* handler) {
    return ffi::Ffi::RegisterStaticHandler(api, name, "Host", handler) == nullptr;
  };
  return taken("multi_hot_forward", kForward) && taken("multi_hot_backward", kBackward) &&
         taken("multi_hot_take_rows", kTakeRows);
}
