// The kernels as custom calls through XLA's foreign function interface: buffers in, buffers out. An update
// changes a table and what belongs to it in place: XLA is told that these results are the operands' own
// memory.
//
// Shapes: B rows, V num_tokens, H units, N values, n slots of touched rows.
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "frame.h"
#include "product.h"
#include "sets.h"
#include "table_calls.h"
#include "table_update.h"
#include "touched.h"

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
    const bool exists = 0 <= row && row < num_resident;
    const int64_t start = exists ? resident_splits[row] : -1, stop = exists ? resident_splits[row + 1] : -1;
    if (start < 0 || stop < start || stop > num_values || stop - start > capacity - total) {
      throw std::invalid_argument(
          "row " + std::to_string(i) + " of the batch, row " + std::to_string(row) + " of " +
          std::to_string(num_resident) + " resident ones, does not exist, or has wrong row_splits, or "
          "holds more ids than the " + std::to_string(capacity - total) + " that the batch has room for");
    }
    total += stop - start;
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

// The index whose ids, num, spans, rows and weights lie in a call's results or operands from `place` on.
// Without weights their buffer is empty.
TouchedIndex index_in(const Call& call, Buffer (Call::*part)(int64_t) const, int64_t place) {
  const Buffer ids = (call.*part)(place), weights = (call.*part)(place + 4);
  TouchedIndex index = {};
  index.ids = ids.data<int32_t>();
  index.num_slots = ids.size();
  index.num = (call.*part)(place + 1).data<int32_t>();
  index.spans = (call.*part)(place + 2).data<int32_t>();
  index.rows = (call.*part)(place + 3).data<int32_t>();
  index.weights = weights.size() > 0 ? weights.data<float>() : nullptr;
  return index;
}

// (values [N], row_splits [B + 1]; weights [N] where ids have weights) -> ids [n], num [1], spans [n, 2],
// rows [N], weights [N], and workspace: entries [N], counts [C + 2, K], weights [N]. Without weights all of
// theirs are empty.
void touch_call(const Call& call, Pool& pool) {
  const Buffer counts = call.result(6);
  TouchedIndex index = index_in(call, &Call::result, 0);
  index.entries = call.result(5).data<int64_t>();
  index.placed = call.result(7).data<float>();
  index.counts = counts.data<int32_t>();
  index.num_chunks = counts.dim(0) - 2;
  index.num_buckets = counts.dim(1);
  touch(sets_of(call, 0, call.attribute<int64_t>("num_tokens")), index, pool);
}

// (dy [B, H], ids, num, spans, rows, weights) -> gradients [n, H]; maybe their squares' sum [1]
void row_gradients_call(const Call& call, Pool& pool) {
  const Buffer dy = call.operand(0);
  const float squares = row_gradients(index_in(call, &Call::operand, 1), dy.data<float>(), dy.dim(1),
                                      call.result(0).data<float>(), pool);
  if (call.num_results() > 1) *call.result(1).data<float>() = squares;
}

// Asks the system to hold the table and slots of a call, its first results, in pages of 2 MB, once for each
// piece of memory: rows are read in any order, and with 4 KB pages nearly every row costs a walk through the
// page tables, which takes longer than the row. A hint: where the system has none left or does not know them,
// the pages stay small.
void use_large_pages(const Call& call) {
  constexpr uintptr_t kPageBytes = uintptr_t{1} << 21;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, which headers before Linux 6.1 lack
  static std::mutex mutex;
  static std::set<std::pair<uintptr_t, uintptr_t>> asked;
  const std::lock_guard<std::mutex> lock(mutex);
  for (int64_t i = 0; i < call.num_results(); ++i) {
    const Buffer part = call.result(i);
    const auto type = part.type();
    const int bytes = type == XLA_FFI_DataType_BF16 ? 2 : type == XLA_FFI_DataType_S64 ? 8 : 4;
    const uintptr_t start = reinterpret_cast<uintptr_t>(part.data<void>()), size = part.size() * bytes;
    if (size < 4 * kPageBytes || !asked.insert({start, size}).second) continue;
    const uintptr_t begin = (start + kPageBytes - 1) / kPageBytes * kPageBytes;
    const uintptr_t end = (start + size) / kPageBytes * kPageBytes;
    void* const first = reinterpret_cast<void*>(begin);
    if (madvise(first, end - begin, MADV_HUGEPAGE) == 0) {  // for pages that are not there yet
      madvise(first, end - begin, kCollapse);               // for those that are, now
    }
  }
}

// (step [1], rate and factor [2], gradients, ids, num, spans, rows, weights, the table and its slots)
//   -> the table and its slots
// The gradients are rows [n, H], or with `from_dy` the dy [B, H] that they follow from. The step is 0
// where nothing is to change.
void update_call(const Call& call, Pool& pool) {
  use_large_pages(call);
  Update update = update_of(call);
  update.step = *call.operand(0).data<int64_t>();
  update.rate = call.operand(1).data<float>()[0];
  update.factor = call.operand(1).data<float>()[1];
  if (update.step == 0) return;
  const bool is_wide = call.result(0).type() == XLA_FFI_DataType_F32;
  const auto update_table = is_wide ? update_rows<float, Pool> : update_rows<Bfloat16, Pool>;
  update_table(update, index_in(call, &Call::operand, 3), call.operand(2).data<float>(),
               call.attribute<bool>("from_dy"), pool);
}

// (step [1], ids, num, decays [2, R + 1], centers [S], terms [S, kTerms, L], a table of exact Adam and its
//  slots) -> the table and its slots. Step 0 changes nothing.
void catch_up_call(const Call& call, Pool& pool) {
  use_large_pages(call);
  CatchUp row = catch_up_of(call);
  row.step = *call.operand(0).data<int64_t>();
  if (row.step == 0) return;
  catch_up(row, call.operand(1).data<int32_t>(), *call.operand(2).data<int32_t>(), pool);
}

}  // namespace
}  // namespace multi_hot

// Registers the handlers with the XLA of this process; returns whether it takes them.
extern "C" bool multi_hot_register(const XLA_FFI_Api* api) {
  using namespace multi_hot;
  return take(api, "Host",
              {{"multi_hot_forward", handler<Pool, forward_call<float>>},
               {"multi_hot_forward_16", handler<Pool, forward_call<Bfloat16>>},
               {"multi_hot_backward", handler<Pool, backward_call>},
               {"multi_hot_take_rows", handler<Pool, take_rows_call>},
               {"multi_hot_touch", handler<Pool, touch_call>},
               {"multi_hot_row_gradients", handler<Pool, row_gradients_call>},
               {"multi_hot_update_rows", handler<Pool, update_call>},
               {"multi_hot_catch_up", handler<Pool, catch_up_call>}});
}
