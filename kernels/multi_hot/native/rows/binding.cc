// Custom calls for the touched rows of a table, and products of a bfloat16 table. An update changes
// the table and what belongs to it in place: XLA is told that these results are the operands' own
// memory.
//
// Shapes: B rows, V num_tokens, H units, N values, n slots of touched rows.
#include <sys/mman.h>

#include <cstdint>
#include <map>
#include <mutex>

#include "../calls.h"
#include "../parts.h"
#include "table_update.h"
#include "touched.h"

namespace multi_hot {
namespace {

// (values [N], row_splits [B + 1], weights [N]) -> ids [n], spans [n, 2], rows [N], num [1],
// weights [N], and workspace: entries [N], counts [C + 2, K], weights [N]. Without weights all of
// theirs are empty.
void touch_call(const Call& call, Pool& pool) {
  const Buffer values = call.operand(0), weights = call.operand(2);
  const Buffer ids = call.result(0), rows = call.result(2), own = call.result(4);
  const Buffer entries = call.result(5), counts = call.result(6), placed = call.result(7);
  const float* given = weights.size() > 0 ? weights.data<float>() : nullptr;
  const Sets sets =
      sets_from(call, values, call.operand(1), given, call.attribute<int64_t>("num_tokens"));
  const TouchedIndex index = {
      ids.data<int32_t>(), call.result(1).data<int32_t>(), rows.data<int32_t>(),
      given == nullptr ? nullptr : own.data<float>(), call.result(3).data<int32_t>(),
      entries.data<int64_t>(), placed.data<float>(), counts.data<int32_t>(), ids.size(),
      counts.dim(0) - 2, counts.dim(1)};
  touch(sets, index, pool);
}

// An index that was computed before: the operands ids, spans, rows, num, weights from `place` on.
// Without weights their buffer is empty.
TouchedIndex index_of(const Call& call, int64_t place) {
  const Buffer weights = call.operand(place + 4);
  TouchedIndex index = {};
  index.ids = call.operand(place).data<int32_t>();
  index.spans = call.operand(place + 1).data<int32_t>();
  index.rows = call.operand(place + 2).data<int32_t>();
  index.num = call.operand(place + 3).data<int32_t>();
  index.weights = weights.size() > 0 ? weights.data<float>() : nullptr;
  return index;
}

// (dy [B, H], ids, spans, rows, num, weights) -> gradients [n, H]; maybe their squares' sum [1]
void row_gradients_call(const Call& call, Pool& pool) {
  const Buffer dy = call.operand(0);
  const TouchedIndex index = index_of(call, 1);
  float* const gradients = call.result(0).data<float>();
  row_gradients(index, dy.data<float>(), dy.dim(1), gradients, pool);
  if (call.num_results() == 1) return;
  *call.result(1).data<float>() = sum_of_squares(gradients, *index.num, dy.dim(1), pool);
}

// Asks the system to hold this memory in pages of 2 MB, once for each piece of memory: rows are read in
// any order, and with 4 KB pages nearly every row costs a walk through the page tables, which takes
// longer than the row. A hint: where the system has none left or does not know them, the pages stay small.
void use_large_pages(void* memory, int64_t num_bytes) {
  constexpr uintptr_t kPageBytes = uintptr_t{1} << 21;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, which headers before Linux 6.1 lack
  constexpr size_t kMostPieces = 1024;
  if (num_bytes < static_cast<int64_t>(4 * kPageBytes)) return;
  static std::mutex mutex;
  static std::map<void*, int64_t> asked;
  const std::lock_guard<std::mutex> lock(mutex);
  if (asked.size() > kMostPieces) asked.clear();
  int64_t& before = asked[memory];
  if (before == num_bytes) return;
  before = num_bytes;
  const uintptr_t start = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (start + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uintptr_t end = (start + static_cast<uintptr_t>(num_bytes)) / kPageBytes * kPageBytes;
  void* const first = reinterpret_cast<void*>(begin);
  if (madvise(first, end - begin, MADV_HUGEPAGE) == 0) {  // for pages that are not there yet
    madvise(first, end - begin, kCollapse);               // for those that are, now
  }
}

// The parts of a table, in large pages.
Parts large_parts(const Call& call, int64_t place) {
  for (int64_t i = place; i < call.num_operands(); ++i) {
    const Buffer part = call.operand(i);
    const auto type = part.type();
    const int64_t bytes = type == XLA_FFI_DataType_BF16 ? 2 : type == XLA_FFI_DataType_S64 ? 8 : 4;
    use_large_pages(part.memory(), part.size() * bytes);
  }
  return parts_in_place(call, place);
}

// (active [1], scalars [5], step [1], gradients, ids, spans, rows, num, weights, and the parts)
//   -> the parts
// The gradients are rows [n, H], or with `from_dy` the dy [B, H] that they follow from. `active` is
// 0 where nothing is to change.
void update_call(const Call& call, Pool& pool) {
  const Parts parts = large_parts(call, 9);
  if (*call.operand(0).data<int32_t>() == 0) return;
  const Buffer gradients = call.operand(3);
  const Update update = of_step(update_of(call, parts, gradients.dim(1)),
                                *call.operand(2).data<int64_t>(), call.operand(1).data<float>());
  const auto update_table = [&](auto* table) {
    update_rows(update, table, index_of(call, 4), gradients.data<float>(),
                call.attribute<bool>("from_dy"), pool);
  };
  const Buffer table = call.operand(9);
  if (table.type() == XLA_FFI_DataType_BF16) return update_table(table.data<Bfloat16>());
  update_table(table.data<float>());
}

// (active [1], all [1], step [1], ids, num, decays [2, R + 1], centers [S], terms [S, J, L], and the
//  parts of exact Adam) -> the parts
void catch_up_call(const Call& call, Pool& pool) {
  const Parts parts = large_parts(call, 8);
  if (*call.operand(0).data<int32_t>() == 0) return;
  CatchUp row = catch_up_of(call, parts);
  row.step = *call.operand(2).data<int64_t>();
  // No row may miss more steps than there are rates.
  const bool whole = *call.operand(1).data<int32_t>() != 0 || row.step % row.num_rates == 0;
  catch_up(call.operand(3).data<int32_t>(), *call.operand(4).data<int32_t>(), parts.num_tokens, whole,
           row, pool);
}

}  // namespace
}  // namespace multi_hot

// Registers the handlers with the XLA of this process; returns whether it takes them.
extern "C" bool multi_hot_register(const XLA_FFI_Api* api) {
  using namespace multi_hot;
  return take(api, "Host",
              {{"multi_hot_forward_16", handler<Pool, forward_call<Bfloat16>>},
               {"multi_hot_touch", handler<Pool, touch_call>},
               {"multi_hot_row_gradients", handler<Pool, row_gradients_call>},
               {"multi_hot_update_rows", handler<Pool, update_call>},
               {"multi_hot_catch_up", handler<Pool, catch_up_call>}});
}
