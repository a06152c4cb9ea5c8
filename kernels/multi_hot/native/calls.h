// What the custom calls of the rows' library share: XLA's buffers, exceptions as XLA's errors, and the
// forward pass. Few runs need that library, so it may take the compiler longer than `frame.h` does.
//
// Shapes: B rows, V num_tokens, H units, N values.
#pragma once

#include <cstdint>
#include <exception>
#include <new>
#include <string>

#include "product.h"
#include "sets.h"
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

ffi::ErrorOr<const float*> weights_in(const Floats& weights, int64_t num_values) {
  if (static_cast<int64_t>(weights.element_count()) == num_values) return weights.typed_data();
  return ffi::Unexpected(ffi::Error::InvalidArgument("there must be one weight for each value"));
}

// Returns the weights [N] that are the last operand; null where there are none, so that an id
// counts once.
ffi::ErrorOr<const float*> weights_of(ffi::RemainingArgs& rest, int64_t num_values) {
  if (rest.size() == 0) return nullptr;
  auto weights = rest.get<Floats>(0);
  if (!weights.has_value()) return ffi::Unexpected(weights.error());
  return weights_in(*weights, num_values);
}

// Calls a kernel with sets, see `run`, if their weights are such.
template <class Kernel>
ffi::Error run_with_sets(Int32s& values, Int64s& splits, ffi::ErrorOr<const float*> weights,
                         int64_t num_tokens, bool unique, Kernel kernel) {
  if (!weights.has_value()) return weights.error();
  const int64_t num_rows = static_cast<int64_t>(splits.element_count()) - 1;
  const Sets sets = {values.typed_data(), static_cast<int64_t>(values.element_count()),
                     splits.typed_data(), num_rows, num_tokens, unique && *weights == nullptr,
                     *weights};
  return run([&] { return kernel(sets); });
}

// (table [V, H], values [N], row_splits [B + 1]; weights [N] where ids have weights) -> y [B, H]
template <class Element, class Table>
ffi::Error forward_call(ffi::ThreadPool pool, Table table, Int32s values, Int64s splits,
                        ffi::RemainingArgs rest, bool unique, ffi::Result<Floats> y) {
  const auto* elements = static_cast<const Element*>(table.untyped_data());
  const int64_t V = table.dimensions()[0], H = table.dimensions()[1];
  const auto weights = weights_of(rest, values.element_count());
  return run_with_sets(values, splits, weights, V, unique, [&](const Sets& sets) {
    return forward(sets, elements, H, y->typed_data(), pool);
  });
}

// What both passes begin with; the matrix is the table, or dy.
template <class Matrix = Floats>
auto product_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Matrix>()
      .template Arg<Int32s>()
      .template Arg<Int64s>()
      .RemainingArgs()
      .template Attr<bool>("unique")
      .template Ret<Floats>();
}

}  // namespace
}  // namespace multi_hot
