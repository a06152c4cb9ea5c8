// The kernels as custom calls through XLA's foreign function interface: buffers in, buffers out.
//
// Shapes: B rows, V num_tokens, H units, N values.
#include <cstdint>
#include <exception>
#include <new>
#include <string>

#include "product.h"
#include "sets.h"
#include "take_rows.h"
#include "xla/ffi/api/ffi.h"

namespace multi_hot {
namespace {

namespace ffi = xla::ffi;

using Floats = ffi::Buffer<ffi::F32>;
using Int32s = ffi::Buffer<ffi::S32>;
using Int64s = ffi::Buffer<ffi::S64>;

// Calls a kernel, which returns a fault or an empty string. XLA expects no exceptions.
template <class Kernel>
ffi::Error run(Kernel kernel) {
  try {
    const std::string fault = kernel();
    if (fault.empty()) return ffi::Error::Success();
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, fault);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "the native multi-hot kernels ran out of host memory");
  } catch (const std::exception& exception) {
    return ffi::Error(ffi::ErrorCode::kInternal, exception.what());
  }
}

Sets make_sets(Int32s& values, Int64s& splits, int64_t num_tokens, bool unique) {
  return {values.typed_data(), static_cast<int64_t>(values.element_count()), splits.typed_data(),
          static_cast<int64_t>(splits.element_count()) - 1, num_tokens, unique};
}

// (table [V, H], values [N], row_splits [B + 1]) -> y [B, H]
ffi::Error forward_call(ffi::ThreadPool pool, Floats table, Int32s values, Int64s splits,
                        bool unique, ffi::Result<Floats> y) {
  const Sets sets = make_sets(values, splits, table.dimensions()[0], unique);
  const int64_t H = table.dimensions()[1];
  return run([&] { return forward(sets, table.typed_data(), H, y->typed_data(), pool); });
}

// (dy [B, H], values [N], row_splits [B + 1])
//   -> dW [V, H], and workspace: ends [C, V], rows [N + kSlack]
ffi::Error backward_call(ffi::ThreadPool pool, Floats dy, Int32s values, Int64s splits, bool unique,
                         ffi::Result<Floats> dw, ffi::Result<Int32s> ends,
                         ffi::ResultBuffer<ffi::U16> rows) {
  const Sets sets = make_sets(values, splits, dw->dimensions()[0], unique);
  const int64_t H = dw->dimensions()[1];
  const TransposedIndex index = {ends->typed_data(), ends->dimensions()[0], rows->typed_data()};
  if (!index.admits(sets.num_rows) ||
      static_cast<int64_t>(rows->element_count()) < sets.num_values + TransposedIndex::kSlack) {
    return ffi::Error(ffi::ErrorCode::kInternal, "the workspace of the index is too small");
  }
  return run([&] { return backward(sets, dy.typed_data(), H, index, dw->typed_data(), pool); });
}

// What both passes begin with.
auto product_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Floats>()
      .Arg<Int32s>()
      .Arg<Int64s>()
      .Attr<bool>("unique")
      .Ret<Floats>();
}
XLA_FFI_DEFINE_HANDLER_SYMBOL(kForward, forward_call, product_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(kBackward, backward_call,
                              product_binding().Ret<Int32s>().Ret<ffi::Buffer<ffi::U16>>());

// (values [M], row_splits [R + 1], rows [B]) -> values [C], row_splits [B + 1]
ffi::Error take_rows_call(ffi::ThreadPool pool, ffi::AnyBuffer values, Int64s splits, Int32s rows,
                          ffi::Result<Int32s> taken, ffi::Result<Int32s> row_splits) {
  const auto take = [&](auto id) {
    using Id = decltype(id);
    const ResidentSets<Id> sets = {static_cast<const Id*>(values.untyped_data()),
                                   static_cast<int64_t>(values.element_count()),
                                   splits.typed_data(),
                                   static_cast<int64_t>(splits.element_count()) - 1};
    return run([&] {
      return take_rows(sets, rows.typed_data(), static_cast<int64_t>(rows.element_count()),
                       static_cast<int64_t>(taken->element_count()), row_splits->typed_data(),
                       taken->typed_data(), pool);
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
                                  .Ret<Int32s>()
                                  .Ret<Int32s>());

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
