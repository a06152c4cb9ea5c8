// The kernels as XLA custom calls: buffers in, buffers out, through XLA's foreign function interface.
//
// Shapes: B rows, V num_tokens, H units, N values.
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "backward.h"
#include "forward.h"
#include "sets.h"
#include "take_rows.h"
#include "xla/ffi/api/ffi.h"

namespace multi_hot {
namespace {

namespace ffi = xla::ffi;

class XlaWorkers : public Workers {
 public:
  explicit XlaWorkers(ffi::ThreadPool& pool) : pool_(pool), num_threads_(pool.num_threads()) {}
  int64_t num_threads() const override { return num_threads_; }
  void schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  ffi::ThreadPool& pool_;
  int64_t num_threads_;
};

ffi::Error invalid(const std::string& message) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, message);
}

ffi::Error unless(const std::string& fault) {
  return fault.empty() ? ffi::Error::Success() : invalid(fault);
}

// Calls function(Format()) with the format of a buffer's elements.
template <class Function>
ffi::Error with_format(ffi::DataType type, Function function) {
  switch (type) {
    case ffi::DataType::F32: return function(Float32());
    case ffi::DataType::BF16: return function(BFloat16());
    case ffi::DataType::F16: return function(Float16());
    default: return invalid("the multi-hot kernels take float32, bfloat16 and float16");
  }
}

Sets make_sets(ffi::Buffer<ffi::S32>& values, ffi::AnyBuffer& splits, int64_t num_tokens,
               bool unique) {
  return {values.typed_data(), static_cast<int64_t>(values.element_count()),
          {splits.untyped_data(), splits.element_type() == ffi::DataType::S64},
          static_cast<int64_t>(splits.element_count()) - 1, num_tokens, unique};
}

// (table [V, H], values [N], row_splits [B + 1]) -> y [B, H]
ffi::Error forward_call(ffi::ThreadPool pool, ffi::AnyBuffer table, ffi::Buffer<ffi::S32> values,
                        ffi::AnyBuffer splits, ffi::Result<ffi::AnyBuffer> y, bool unique) {
  const int64_t V = table.dimensions()[0], H = table.dimensions()[1];
  const Sets sets = make_sets(values, splits, V, unique);
  XlaWorkers workers(pool);
  return with_format(table.element_type(), [&](auto format) {
    using Format = decltype(format);
    using Storage = typename Format::Storage;
    return unless(forward<Format>(sets, static_cast<const Storage*>(table.untyped_data()), H,
                                  static_cast<Storage*>(y->untyped_data()), workers));
  });
}

// (dy [B, H], values [N], row_splits [B + 1])
//   -> dW [V, H], and workspace: ends [C, V], rows [N + kSlack]
ffi::Error backward_call(ffi::ThreadPool pool, ffi::AnyBuffer dy, ffi::Buffer<ffi::S32> values,
                         ffi::AnyBuffer splits, ffi::Result<ffi::AnyBuffer> dw,
                         ffi::ResultBuffer<ffi::S32> ends, ffi::ResultBuffer<ffi::U16> rows,
                         bool unique, bool halves) {
  const int64_t V = dw->dimensions()[0], H = dw->dimensions()[1];
  const Sets sets = make_sets(values, splits, V, unique);
  const TransposedIndex index = {ends->typed_data(), ends->dimensions()[0], rows->typed_data()};
  if (!index.admits(sets.num_rows) || (halves && !index.has_halves()) ||
      static_cast<int64_t>(rows->element_count()) < sets.num_values + TransposedIndex::kSlack) {
    return ffi::Error(ffi::ErrorCode::kInternal, "the workspace of the index is too small");
  }
  XlaWorkers workers(pool);
  return with_format(dy.element_type(), [&](auto format) {
    using Format = decltype(format);
    using Storage = typename Format::Storage;
    return unless(backward<Format>(sets, static_cast<const Storage*>(dy.untyped_data()), H, index,
                                   halves, static_cast<Storage*>(dw->untyped_data()), workers));
  });
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(kForward, forward_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<bool>("unique"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(kBackward, backward_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::U16>>()
                                  .Attr<bool>("unique")
                                  .Attr<bool>("halves"));

template <class Id>
ffi::Error take_rows(Workers& workers, const ResidentSets<Id>& sets, ffi::Buffer<ffi::S32>& rows,
                     ffi::ResultBuffer<ffi::S32>& values, ffi::ResultBuffer<ffi::S32>& row_splits) {
  const int64_t B = static_cast<int64_t>(rows.element_count());
  const int64_t C = static_cast<int64_t>(values->element_count());
  int32_t* splits = row_splits->typed_data();
  const std::string fault = plan_rows(sets, rows.typed_data(), B, C, splits);
  if (!fault.empty()) return invalid(fault);
  copy_rows(sets, rows.typed_data(), B, C, splits, values->typed_data(), workers);
  return ffi::Error::Success();
}

// (values [M], row_splits [R + 1], rows [B]) -> values [C], row_splits [B + 1]
ffi::Error take_rows_call(ffi::ThreadPool pool, ffi::AnyBuffer values, ffi::AnyBuffer splits,
                          ffi::Buffer<ffi::S32> rows, ffi::ResultBuffer<ffi::S32> taken,
                          ffi::ResultBuffer<ffi::S32> row_splits) {
  XlaWorkers workers(pool);
  const auto sets = [&](auto* ids) {
    return ResidentSets<std::remove_cv_t<std::remove_pointer_t<decltype(ids)>>>{
        ids, static_cast<int64_t>(values.element_count()),
        {splits.untyped_data(), splits.element_type() == ffi::DataType::S64},
        static_cast<int64_t>(splits.element_count()) - 1};
  };
  switch (values.element_type()) {
    case ffi::DataType::U16:
      return take_rows(workers, sets(static_cast<const uint16_t*>(values.untyped_data())), rows,
                       taken, row_splits);
    case ffi::DataType::S32:
      return take_rows(workers, sets(static_cast<const int32_t*>(values.untyped_data())), rows,
                       taken, row_splits);
    default: return invalid("resident ids are uint16 or int32");
  }
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(kTakeRows, take_rows_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>());

}  // namespace
}  // namespace multi_hot

// Registers the handlers with the XLA of this process. Returns 0, or the number of the failed one.
extern "C" int multi_hot_register(const XLA_FFI_Api* api) {
  using xla::ffi::Ffi;
  if (Ffi::RegisterStaticHandler(api, "multi_hot_forward", "Host", multi_hot::kForward)) return 1;
  if (Ffi::RegisterStaticHandler(api, "multi_hot_backward", "Host", multi_hot::kBackward)) return 2;
  if (Ffi::RegisterStaticHandler(api, "multi_hot_take_rows", "Host", multi_hot::kTakeRows)) return 3;
  return 0;
}
