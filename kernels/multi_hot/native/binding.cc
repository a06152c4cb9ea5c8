// The kernels as custom calls through XLA's foreign function interface: buffers in, buffers out.
//
// Shapes: B rows, V num_tokens, H units, N values.
#include <cstdint>

#include "calls.h"
#include "take_rows.h"

namespace multi_hot {
namespace {

// (dy [B, H], values [N], row_splits [B + 1]; weights [N] where ids have weights)
//   -> dW [V, H], and workspace: ends [C, V], rows [N + kSlack]; for weights [N]
void backward_call(const Call& call, Pool& pool) {
  const Buffer dw = call.result(0), ends = call.result(1), rows = call.result(2);
  const Sets sets = sets_of(call, dw.dim(0));
  const TransposedIndex index = {
      ends.data<int32_t>(), ends.dim(0), rows.data<uint16_t>(),
      sets.weights == nullptr ? nullptr : call.result(3).data<float>()};
  backward(sets, call.operand(0).data<float>(), dw.dim(1), index, dw.data<float>(), pool);
}

template <class Id>
void take_rows_of(const Call& call, Pool& pool) {
  const Buffer values = call.operand(0), splits = call.operand(1), rows = call.operand(2);
  const Buffer taken = call.result(0);
  // There may be weights without any ids, and so without memory for them.
  float* taken_weights = call.num_results() > 2 ? call.result(2).data<float>() : nullptr;
  const ResidentSets<Id> sets = {values.data<Id>(), values.size(), splits.data<int64_t>(),
                                 splits.size() - 1, last_weights(call, 3)};
  take_rows(sets, rows.data<int32_t>(), rows.size(), taken.size(), call.result(1).data<int32_t>(),
            taken.data<int32_t>(), taken_weights, pool);
}

// (values [M], row_splits [R + 1], rows [B]; weights [M] where ids have weights)
//   -> values [C], row_splits [B + 1]; weights [C]
void take_rows_call(const Call& call, Pool& pool) {
  if (call.operand(0).type() == XLA_FFI_DataType_U16) return take_rows_of<uint16_t>(call, pool);
  take_rows_of<uint32_t>(call, pool);
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
