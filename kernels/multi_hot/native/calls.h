// What every custom call shares: XLA's buffers, and exceptions as XLA's errors.
#pragma once

#include <cstdint>
#include <exception>
#include <new>
#include <string>

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

}  // namespace
}  // namespace multi_hot
