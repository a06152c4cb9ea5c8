// What the custom calls of both libraries share: their sets, and the forward pass, whose table is of
// either type.
//
// Shapes: B rows, V num_tokens, H units, N values.
#pragma once

#include <cstdint>

#include "frame.h"
#include "product.h"
#include "sets.h"

namespace multi_hot {
namespace {

// Returns the weights [N] that are a call's last operand; null where there are none, so that an id
// counts once.
const float* last_weights(const Call& call, int64_t place) {
  return call.num_operands() > place ? call.operand(place).data<float>() : nullptr;
}

// Reads the sets, a call's operands from `place` on.
Sets sets_of(const Call& call, int64_t place, int64_t num_tokens) {
  const Buffer values = call.operand(place), splits = call.operand(place + 1);
  const float* weights = last_weights(call, place + 2);
  return {values.data<int32_t>(), values.size(), splits.data<int64_t>(), splits.size() - 1,
          num_tokens, call.attribute<bool>("unique") && weights == nullptr, weights};
}

// (table [V, H], values [N], row_splits [B + 1]; weights [N] where ids have weights) -> y [B, H]
template <class Element>
void forward_call(const Call& call, Pool& pool) {
  const Buffer table = call.operand(0);
  forward(sets_of(call, 1, table.dim(0)), table.data<Element>(), table.dim(1),
          call.result(0).data<float>(), pool);
}

}  // namespace
}  // namespace multi_hot
