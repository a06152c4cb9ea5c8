// What the custom calls of both libraries share: their sets, and the forward pass, whose table is of
// either type.
//
// Shapes: B rows, V num_tokens, H units, N values.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "frame.h"
#include "product.h"
#include "sets.h"

namespace multi_hot {
namespace {

const float* checked_weights(const Buffer& weights, int64_t num_values) {
  if (weights.size() != num_values) {
    throw std::invalid_argument("there must be one weight for each value");
  }
  return weights.data<float>();
}

// Returns the weights [N] that are a call's last operand; null where there are none, so that an id
// counts once.
const float* last_weights(const Call& call, int64_t place, int64_t num_values) {
  return call.num_operands() > place ? checked_weights(call.operand(place), num_values) : nullptr;
}

Sets sets_from(const Call& call, const Buffer& values, const Buffer& splits, const float* weights,
               int64_t num_tokens) {
  return {values.data<int32_t>(), values.size(), splits.data<int64_t>(), splits.size() - 1,
          num_tokens, call.attribute<bool>("unique") && weights == nullptr, weights};
}

// Of both passes, whose operands are a matrix and the sets.
Sets sets_of(const Call& call, int64_t num_tokens) {
  const Buffer values = call.operand(1), splits = call.operand(2);
  return sets_from(call, values, splits, last_weights(call, 3, values.size()), num_tokens);
}

// (table [V, H], values [N], row_splits [B + 1]; weights [N] where ids have weights) -> y [B, H]
template <class Element>
void forward_call(const Call& call, Pool& pool) {
  const Buffer table = call.operand(0);
  require(forward(sets_of(call, table.dim(0)), table.data<Element>(), table.dim(1),
                  call.result(0).data<float>(), pool));
}

}  // namespace
}  // namespace multi_hot
