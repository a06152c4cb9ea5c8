// The kernels as custom calls through XLA's foreign function interface: buffers in, buffers out.
//
// Shapes: B rows, V num_tokens, H units, N values.
#include <cstdint>
#include <stdexcept>
#include <string>

#include "calls.h"
#include "take_rows.h"

namespace multi_hot {
namespace {

// (dy [B, H], values [N], row_splits [B + 1]; weights [N] where ids have weights)
//   -> dW [V, H], and workspace: ends [C, V], rows [N + kSlack]; for weights [N]
void backward_call(const Call& call, Pool& pool) {
  const Buffer dw = call.result(0), ends = call.result(1), rows = call.result(2);
  const Sets sets = sets_of(call, dw.dim(0));
  TransposedIndex index = {ends.data<int32_t>(), ends.dim(0), rows.data<uint16_t>(), nullptr};
  bool fits = index.admits(sets.num_rows) &&
              rows.size() >= sets.num_values + TransposedIndex::kSlack;
  if (sets.weights != nullptr) {
    const Buffer placed = call.result(3);
    fits = fits && placed.size() >= sets.num_values;
    index.weights = placed.data<float>();
  }
  if (!fits) throw std::logic_error("the workspace of the index is too small");
  require(backward(sets, call.operand(0).data<float>(), dw.dim(1), index, dw.data<float>(), pool));
}

template <class Id>
void take_rows_of(const Call& call, Pool& pool) {
  const Buffer values = call.operand(0), splits = call.operand(1), rows = call.operand(2);
  const Buffer taken = call.result(0);
  const float* weights = last_weights(call, 3, values.size());
  float* taken_weights = nullptr;
  if (call.num_results() > 2) {  // also where there are no ids, and so no memory for weights
    const Buffer result = call.result(2);
    if (result.size() != taken.size()) {
      throw std::invalid_argument("there must be one weight for each value");
    }
    taken_weights = result.data<float>();
  }
  const ResidentSets<Id> sets = {values.data<Id>(), values.size(), splits.data<int64_t>(),
                                 splits.size() - 1, weights};
  require(take_rows(sets, rows.data<int32_t>(), rows.size(), taken.size(),
                    call.result(1).data<int32_t>(), taken.data<int32_t>(), taken_weights, pool));
}

// (values [M], row_splits [R + 1], rows [B]; weights [M] where ids have weights)
//   -> values [C], row_splits [B + 1]; weights [C]
void take_rows_call(const Call& call, Pool& pool) {
  switch (call.operand(0).type()) {
    case kType<uint16_t>: return take_rows_of<uint16_t>(call, pool);
    case kType<uint32_t>: return take_rows_of<uint32_t>(call, pool);
    default: require("resident ids are uint16 or uint32");
  }
}

}  // namespace
}  // namespace multi_hot

// Registers the handlers with the XLA of this process; returns whether it takes them.
extern "C" bool multi_hot_register(const XLA_FFI_Api* api) {
  using namespace multi_hot;
  return take(api, "Host",
              {{"multi_hot_forward", handler<Pool, forward_call<float>>},
               {"multi_hot_backward", handler<Pool, backward_call>},
               {"multi_hot_take_rows", handler<Pool, take_rows_call>}});
}
