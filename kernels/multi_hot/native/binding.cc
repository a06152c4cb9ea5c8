// The kernels as custom calls through XLA's foreign function interface: buffers in, buffers out.
//
// Shapes: B rows, V num_tokens, H units, N values.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "calls.h"

namespace multi_hot {
namespace {

// (dy [B, H], values [N], row_splits [B + 1]; weights [N] where ids have weights)
//   -> dW [V, H], and workspace: ends [C, V], rows [N + kSlack]; for weights [N]
void backward_call(const Call& call, Pool& pool) {
  const Buffer dw = call.result(0), ends = call.result(1), rows = call.result(2);
  const Sets sets = sets_of(call, 1, dw.dim(0));
  const TransposedIndex index = {
      ends.data<int32_t>(), ends.dim(0), rows.data<uint16_t>(),
      sets.weights == nullptr ? nullptr : call.result(3).data<float>()};
  backward(sets, call.operand(0).data<float>(), dw.dim(1), index, dw.data<float>(), pool);
}

// Copies rows of resident sets into a batch, and zeros behind them. Raises what is wrong; only the splits of
// the rows that it takes are read and checked.
// (values [M], row_splits [R + 1], rows [B]; weights [M] where ids have weights)
//   -> values [C], row_splits [B + 1]; weights [C]
template <class Id>
void take_rows(const Call& call, Pool& pool) {
  // Rows of a block: some thousand ids, so that handing a block to a thread costs little.
  constexpr int64_t kRowsPerBlock = 32;
  // How many rows ahead ids are prefetched, and how many bytes: rows lie anywhere in memory, and the
  // processor's own prefetcher only follows a row that it has started.
  constexpr int64_t kRowsAhead = 4, kBytesAhead = 256;
  const int64_t num_values = call.operand(0).size(), num_resident = call.operand(1).size() - 1;
  const int64_t num_rows = call.operand(2).size(), capacity = call.result(0).size();
  const Id* resident = call.operand(0).data<Id>();
  const int64_t* resident_splits = call.operand(1).data<int64_t>();
  const int32_t* rows = call.operand(2).data<int32_t>();
  const float* resident_weights = last_weights(call, 3);
  int32_t* values = call.result(0).data<int32_t>();
  int32_t* row_splits = call.result(1).data<int32_t>();
  // There may be weights without any ids, and so without memory for them.
  float* weights = call.num_results() > 2 ? call.result(2).data<float>() : nullptr;
  int64_t total = 0;
  row_splits[0] = 0;
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t row = rows[i];
    if (row < 0 || row >= num_resident) {
      throw std::invalid_argument(
          "row " + std::to_string(i) + " of the batch is row " + std::to_string(row) +
          " of the resident sets, which hold " + std::to_string(num_resident));
    }
    const int64_t start = resident_splits[row], stop = resident_splits[row + 1];
    if (start < 0 || stop < start || stop > num_values) {
      throw std::invalid_argument("row_splits of the resident sets are wrong at row " +
                                  std::to_string(row));
    }
    total += stop - start;
    if (total > capacity) {
      throw std::invalid_argument("the batch holds more ids than its capacity, " +
                                  std::to_string(capacity));
    }
    row_splits[i + 1] = static_cast<int32_t>(total);
  }
  parallel_for(pool, (num_rows + kRowsPerBlock - 1) / kRowsPerBlock, [=](int64_t block) {
    const int64_t first = block * kRowsPerBlock, last = std::min(first + kRowsPerBlock, num_rows);
    for (int64_t i = first; i < last; ++i) {
      if (i + kRowsAhead < last) {
        const auto* ahead =
            reinterpret_cast<const char*>(resident + resident_splits[rows[i + kRowsAhead]]);
        // Prefetching beyond the end of the array does nothing.
        for (int64_t byte = 0; byte < kBytesAhead; byte += 64) __builtin_prefetch(ahead + byte);
      }
      const int64_t start = resident_splits[rows[i]], to = row_splits[i];
      const int64_t length = row_splits[i + 1] - to;
      std::copy_n(resident + start, length, values + to);
      if (weights != nullptr) std::copy_n(resident_weights + start, length, weights + to);
    }
  });
  std::fill(values + total, values + capacity, 0);
  if (weights != nullptr) std::fill(weights + total, weights + capacity, 0.0f);
}

void take_rows_call(const Call& call, Pool& pool) {
  const bool is_narrow = call.operand(0).type() == XLA_FFI_DataType_U16;
  return is_narrow ? take_rows<uint16_t>(call, pool) : take_rows<uint32_t>(call, pool);
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
