// The kernels as custom calls through XLA's foreign function interface: buffers in, buffers out.
//
// Shapes: B rows, V num_tokens, H units, N values.
#include <cstdint>
#include <exception>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "product.h"
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

// An empty string means success.
ffi::Error error_of(const std::string& fault) {
  if (fault.empty()) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, fault);
}

// Calls function(Format()) with the format of a buffer's elements.
template <class Function>
ffi::Error with_format(ffi::DataType type, Function function) {
  switch (type) {
    case ffi::DataType::F32: return function(Float32());
    case ffi::DataType::BF16: return function(BFloat16());
    case ffi::DataType::F16: return function(Float16());
    default: return error_of("the multi-hot kernels take float32, bfloat16 and float16");
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
                        ffi::AnyBuffer splits, bool unique, ffi::Result<ffi::AnyBuffer> y) {
  const int64_t V = table.dimensions()[0], H = table.dimensions()[1];
  const Sets sets = make_sets(values, splits, V, unique);
  XlaWorkers workers(pool);
  return with_format(table.element_type(), [&](auto format) {
    using Format = decltype(format);
    using Storage = typename Format::Storage;
    return error_of(forward<Format>(sets, static_cast<const Storage*>(table.untyped_data()), H,
                                    static_cast<Storage*>(y->untyped_data()), workers));
  });
}

// (dy [B, H], values [N], row_splits [B + 1])
//   -> dW [V, H], and workspace: ends [C, V], rows [N + kSlack]
ffi::Error backward_call(ffi::ThreadPool pool, ffi::AnyBuffer dy, ffi::Buffer<ffi::S32> values,
                         ffi::AnyBuffer splits, bool unique, ffi::Result<ffi::AnyBuffer> dw,
                         ffi::ResultBuffer<ffi::S32> ends, ffi::ResultBuffer<ffi::U16> rows) {
  const int64_t V = dw->dimensions()[0], H = dw->dimensions()[1];
  const Sets sets = make_sets(values, splits, V, unique);
  const TransposedIndex index = {ends->typed_data(), ends->dimensions()[0], rows->typed_data()};
  if (!index.admits(sets.num_rows) ||
      static_cast<int64_t>(rows->element_count()) < sets.num_values + TransposedIndex::kSlack) {
    return ffi::Error(ffi::ErrorCode::kInternal, "the workspace of the index is too small");
  }
  XlaWorkers workers(pool);
  return with_format(dy.element_type(), [&](auto format) {
    using Format = decltype(format);
    using Storage = typename Format::Storage;
    return error_of(backward<Format>(sets, static_cast<const Storage*>(dy.untyped_data()), H, index,
                                     static_cast<Storage*>(dw->untyped_data()), workers));
  });
}

// What both passes begin with.
auto product_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::Buffer<ffi::S32>>()
      .Arg<ffi::AnyBuffer>()
      .Attr<bool>("unique")
      .Ret<ffi::AnyBuffer>();
}
XLA_FFI_DEFINE_HANDLER_SYMBOL(kForward, forward_call, product_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    kBackward, backward_call,
    product_binding().Ret<ffi::Buffer<ffi::S32>>().Ret<ffi::Buffer<ffi::U16>>());

// (values [M], row_splits [R + 1], rows [B]) -> values [C], row_splits [B + 1]
ffi::Error take_rows_call(ffi::ThreadPool pool, ffi::AnyBuffer values, ffi::AnyBuffer splits,
                          ffi::Buffer<ffi::S32> rows, ffi::ResultBuffer<ffi::S32> taken,
                          ffi::ResultBuffer<ffi::S32> row_splits) {
  const bool is_int64 = splits.element_type() == ffi::DataType::S64;
  if (!is_int64 && splits.element_type() != ffi::DataType::S32) {
    return error_of("resident row_splits are int32 or int64");
  }
  const int64_t B = static_cast<int64_t>(rows.element_count());
  const int64_t C = static_cast<int64_t>(taken->element_count());
  XlaWorkers workers(pool);
  const auto take = [&](auto id) {
    using Id = decltype(id);
    const ResidentSets<Id> sets = {static_cast<const Id*>(values.untyped_data()),
                                   static_cast<int64_t>(values.element_count()),
                                   {splits.untyped_data(), is_int64},
                                   static_cast<int64_t>(splits.element_count()) - 1};
    int32_t* ends = row_splits->typed_data();
    const std::string fault = plan_rows(sets, rows.typed_data(), B, C, ends);
    if (fault.empty()) copy_rows(sets, rows.typed_data(), B, C, ends, taken->typed_data(), workers);
    return error_of(fault);
  };
  switch (values.element_type()) {
    case ffi::DataType::U16: return take(uint16_t());
    case ffi::DataType::U32: return take(uint32_t());
    default: return error_of("resident ids are uint16 or uint32");
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

// A handler that turns exceptions into errors, since XLA expects none. The messages are plain
// characters: there may be no memory for a std::string.
template <XLA_FFI_Handler* handler>
XLA_FFI_Error* guarded(XLA_FFI_CallFrame* frame) {
  const auto error = [frame](XLA_FFI_Error_Code code, const char* message) {
    XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message, code};
    return frame->api->XLA_FFI_Error_Create(&args);
  };
  try {
    return handler(frame);
  } catch (const std::bad_alloc&) {
    return error(XLA_FFI_Error_Code_RESOURCE_EXHAUSTED,
                 "the native multi-hot kernels ran out of host memory");
  } catch (const std::exception& exception) {
    return error(XLA_FFI_Error_Code_INTERNAL, exception.what());
  }
}

}  // namespace
}  // namespace multi_hot

// Registers the handlers with the XLA of this process. Returns 0, or the number of the failed one.
extern "C" int multi_hot_register(const XLA_FFI_Api* api) {
  using namespace multi_hot;
  const auto failed = [api](const char* name, XLA_FFI_Handler* handler) {
    return ffi::Ffi::RegisterStaticHandler(api, name, "Host", handler) != nullptr;
  };
  if (failed("multi_hot_forward", guarded<kForward>)) return 1;
  if (failed("multi_hot_backward", guarded<kBackward>)) return 2;
  if (failed("multi_hot_take_rows", guarded<kTakeRows>)) return 3;
  return 0;
}
