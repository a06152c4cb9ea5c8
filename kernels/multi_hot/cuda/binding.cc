// The CUDA kernels as custom calls through XLA's foreign function interface. A call launches its kernels
// on XLA's stream and returns; what it needs of memory beside is XLA's.
//
// Shapes: B rows, V num_tokens, H units, N values; R resident rows, M their ids, C a batch's capacity.
#include <climits>
#include <cstdint>
#include <string>

#include "driver.h"
#include "passes.h"
#include "xla/ffi/api/ffi.h"

namespace multi_hot {
namespace {

namespace ffi = xla::ffi;

using Stream = ffi::PlatformStream<void*>;
using Type = ffi::DataType;

ffi::Error reported(const std::string& fault) {
  return fault.empty() ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kInternal, fault);
}
ffi::Error refused(const std::string& fault) { return ffi::Error::InvalidArgument(fault); }

// The name of a table's type in those of the kernels, or null.
const char* kernel_type(Type type) {
  switch (type) {
    case Type::F32: return "f32";
    case Type::BF16: return "bf16";
    case Type::F16: return "f16";
    default: return nullptr;
  }
}

// Fills in the sets; returns what is wrong with the buffers, or an empty string.
std::string read_sets(ffi::AnyBuffer& values, ffi::AnyBuffer& splits, ffi::RemainingArgs& weights,
                      int64_t num_tokens, DeviceSets* sets) {
  switch (values.element_type()) {
    case Type::S32: sets->id_type = kInt32; break;
    case Type::U16: sets->id_type = kUInt16; break;
    case Type::S64: sets->id_type = kInt64; break;
    default: return "ids are int32, uint16 or int64";
  }
  if (splits.element_type() != Type::S32 && splits.element_type() != Type::S64) {
    return "row_splits are int32 or int64";
  }
  const int64_t N = values.element_count(), B = static_cast<int64_t>(splits.element_count()) - 1;
  // Positions are counted in int32, and a little beyond them.
  if (N > INT_MAX - 4096 || B > INT_MAX / 32 - 4096 || num_tokens > INT_MAX - 1) {
    return "a batch may hold up to 2^31 ids and 2^26 rows";
  }
  sets->values = values.untyped_data();
  sets->splits = splits.untyped_data();
  sets->wide_splits = splits.element_type() == Type::S64;
  sets->num_values = static_cast<int>(N);
  sets->num_rows = static_cast<int>(B);
  sets->num_tokens = static_cast<int>(num_tokens);
  sets->weights = nullptr;
  if (weights.size() == 0) return "";
  const auto own = weights.get<ffi::Buffer<ffi::F32>>(0);
  if (!own.has_value() || static_cast<int64_t>(own->element_count()) != N) {
    return "there must be one float32 weight for each value";
  }
  sets->weights = own->typed_data();
  return "";
}

// (table [V, H], values [N], row_splits [B + 1], maybe weights [N]) -> y [B, H]
ffi::Error forward_call(void* stream, ffi::AnyBuffer table, ffi::AnyBuffer values,
                        ffi::AnyBuffer splits, ffi::RemainingArgs weights, bool unique,
                        ffi::Result<ffi::AnyBuffer> y) {
  const char* type = kernel_type(table.element_type());
  if (type == nullptr) return refused("tables are float32, bfloat16 or float16");
  DeviceSets sets;
  const std::string fault = read_sets(values, splits, weights, table.dimensions()[0], &sets);
  if (!fault.empty()) return refused(fault);
  DriverQueue queue = {stream};
  return reported(run_forward(queue, type, sets, unique, table.untyped_data(),
                              static_cast<int>(table.dimensions()[1]), y->untyped_data()));
}

// (dy [B, H], values [N], row_splits [B + 1], maybe weights [N]) -> dW [V, H], and the workspace
ffi::Error backward_call(void* stream, ffi::AnyBuffer dy, ffi::AnyBuffer values,
                         ffi::AnyBuffer splits, ffi::RemainingArgs weights,
                         ffi::Result<ffi::AnyBuffer> dw, ffi::ResultBuffer<ffi::S32> workspace) {
  const char* type = kernel_type(dy.element_type());
  if (type == nullptr) return refused("gradients are float32, bfloat16 or float16");
  const int64_t V = dw->dimensions()[0], H = dw->dimensions()[1];
  DeviceSets sets;
  const std::string fault = read_sets(values, splits, weights, V, &sets);
  if (!fault.empty()) return refused(fault);
  if (static_cast<int64_t>(workspace->element_count()) < Workspace(sets.num_values, V, H).size) {
    return ffi::Error(ffi::ErrorCode::kInternal, "the workspace of the gradient is too small");
  }
  DriverQueue queue = {stream};
  return reported(run_backward(queue, type, sets, dy.untyped_data(), static_cast<int>(H),
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

constexpr auto kCapturable = {ffi::Traits::kCmdBufferCompatible};

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
         taken("multi_hot_cuda_take_rows", multi_hot_cuda_take_rows);
}

// Hands over the kernels that were compiled for a compute capability.
void multi_hot_cuda_add(int major, int minor, const void* image, std::size_t size) {
  multi_hot::Modules::get().add(major, minor, image, size);
}
}
