// What the custom calls of both libraries share: XLA's buffers, exceptions as XLA's errors, and the
// forward pass, whose table is of either type.
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

// Without `weights` an id counts once.
Sets make_sets(Int32s& values, Int64s& splits, int64_t num_tokens, bool unique,
               const float* weights = nullptr) {
  return {values.typed_data(), static_cast<int64_t>(values.element_count()), splits.typed_data(),
          static_cast<int64_t>(splits.element_count()) - 1, num_tokens, unique, weights};
}

// Checks that there is a weight for each value; `call` runs where there is.
template <class Call>
ffi::Error with_weights(Int32s& values, Floats& weights, Call call) {
  if (weights.element_count() != values.element_count()) {
    return ffi::Error::InvalidArgument("there must be one weight for each value");
  }
  return call();
}

template <class Element, class Table>
ffi::Error run_forward(ffi::ThreadPool& pool, Table& table, const Sets& sets, Floats& y) {
  const auto* elements = static_cast<const Element*>(table.untyped_data());
  const int64_t H = table.dimensions()[1];
  return run([&] { return forward(sets, elements, H, y.typed_data(), pool); });
}

// (table [V, H], values [N], row_splits [B + 1]) -> y [B, H]
template <class Element, class Table>
ffi::Error forward_call(ffi::ThreadPool pool, Table table, Int32s values, Int64s splits,
                        bool unique, ffi::Result<Floats> y) {
  const Sets sets = make_sets(values, splits, table.dimensions()[0], unique);
  return run_forward<Element>(pool, table, sets, *y);
}

// The same with weights [N]
template <class Element, class Table>
ffi::Error weighted_forward_call(ffi::ThreadPool pool, Table table, Int32s values, Int64s splits,
                                 Floats weights, ffi::Result<Floats> y) {
  return with_weights(values, weights, [&] {
    const int64_t V = table.dimensions()[0];
    const Sets sets = make_sets(values, splits, V, false, weights.typed_data());
    return run_forward<Element>(pool, table, sets, *y);
  });
}

// What both passes begin with, without weights and with; the matrix is the table, or dy.
template <class Matrix = Floats>
auto product_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Matrix>()
      .template Arg<Int32s>()
      .template Arg<Int64s>()
      .template Attr<bool>("unique")
      .template Ret<Floats>();
}
template <class Matrix = Floats>
auto weighted_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Matrix>()
      .template Arg<Int32s>()
      .template Arg<Int64s>()
      .template Arg<Floats>()
      .template Ret<Floats>();
}

}  // namespace
}  // namespace multi_hot
