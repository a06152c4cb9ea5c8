// What the custom calls share: XLA's buffers as the kernels' arguments, and errors.
#pragma once

#include <climits>
#include <cstdint>
#include <string>

#include "arguments.h"
#include "xla/ffi/api/ffi.h"

namespace multi_hot {

namespace ffi = xla::ffi;

using Stream = ffi::PlatformStream<void*>;
using Type = ffi::DataType;
using Floats = ffi::Buffer<ffi::F32>;
using Ints = ffi::Buffer<ffi::S32>;

constexpr auto kCapturable = {ffi::Traits::kCmdBufferCompatible};

inline ffi::Error reported(const std::string& fault) {
  return fault.empty() ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kInternal, fault);
}
inline ffi::Error too_small() {
  return ffi::Error(ffi::ErrorCode::kInternal, "the workspace is too small");
}
inline ffi::Error refused(const std::string& fault) { return ffi::Error::InvalidArgument(fault); }

// The name of a table's type in those of the kernels, or null.
inline const char* kernel_type(Type type) {
  switch (type) {
    case Type::F32: return "f32";
    case Type::BF16: return "bf16";
    case Type::F16: return "f16";
    default: return nullptr;
  }
}

// Fills in the sets but their weights and step; returns what is wrong with the buffers, or an empty string.
inline std::string read_sets(ffi::AnyBuffer& values, ffi::AnyBuffer& splits, int64_t num_tokens,
                             DeviceSets* sets) {
  switch (values.element_type()) {
    case Type::S32:
    case Type::U32: sets->id_type = kInt32; break;  // ids are below 2^31
    case Type::U16: sets->id_type = kUInt16; break;
    case Type::S64: sets->id_type = kInt64; break;
    default: return "ids are int32, uint32, uint16 or int64";
  }
  if (splits.element_type() != Type::S32 && splits.element_type() != Type::S64) {
    return "row_splits are int32 or int64";
  }
  const int64_t N = values.dimensions().back(), B = splits.dimensions().back() - 1;
  const int64_t num_steps = splits.dimensions().size() > 1 ? splits.dimensions()[0] : 1;
  if (static_cast<int64_t>(values.element_count()) != num_steps * N) {
    return "several batches have as many values as row_splits";
  }
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
  sets->step = nullptr;
  sets->num_steps = static_cast<int>(num_steps);
  return "";
}

// Fills in the weights, where there are any, and the step of several batches.
template <class Values>
std::string read_remaining(ffi::RemainingArgs& remaining, Values& values,
                                  DeviceSets* sets) {
  for (std::size_t i = 0; i < remaining.size(); ++i) {
    const auto step = remaining.get<ffi::Buffer<ffi::S32, 0>>(i);
    const auto weights = remaining.get<Floats>(i);
    if (step.has_value()) {
      sets->step = step->typed_data();
    } else if (weights.has_value() && weights->element_count() == values.element_count()) {
      sets->weights = weights->typed_data();
    } else {
      return "there must be one float32 weight for each value";
    }
  }
  return sets->num_steps > 1 && sets->step == nullptr ? "several batches need a step" : "";
}

}  // namespace multi_hot
