// Custom calls for the touched rows of a table, and products of a bfloat16 table. An update changes
// the table and what belongs to it in place: XLA is told that these results are the operands' own
// memory.
//
// Shapes: B rows, V num_tokens, H units, N values, n slots of touched rows.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "../calls.h"
#include "large_pages.h"
#include "table_update.h"
#include "touched.h"

namespace multi_hot {
namespace {

// (values [N], row_splits [B + 1], weights [N]) -> ids [n], spans [n, 2], rows [N], num [1],
// weights [N], and workspace: entries [N], counts [C + 2, K], weights [N]. Without weights all of
// theirs are empty.
std::string touch_call(const Call& call, Pool& pool) {
  const Buffer values = call.operand(0), weights = call.operand(2);
  const Buffer ids = call.result(0), rows = call.result(2), own = call.result(4);
  const Buffer entries = call.result(5), counts = call.result(6), placed = call.result(7);
  const float* given = weights.size() > 0 ? checked_weights(weights, values.size()) : nullptr;
  const Sets sets =
      sets_from(call, values, call.operand(1), given, call.attribute<int64_t>("num_tokens"));
  const TouchedIndex index = {
      ids.data<int32_t>(), call.result(1).data<int32_t>(), rows.data<int32_t>(),
      given == nullptr ? nullptr : own.data<float>(), call.result(3).data<int32_t>(),
      entries.data<int64_t>(), placed.data<float>(), counts.data<int32_t>(), ids.size(),
      counts.dim(0) - 2, counts.dim(1)};
  const int64_t N = sets.num_values;
  if (index.num_slots < std::min(N, sets.num_tokens) || index.num_chunks < 1 || rows.size() < N ||
      entries.size() < N || (index.num_buckets & (index.num_buckets - 1)) != 0) {
    throw std::logic_error("the workspace of the touched rows is too small");
  }
  return touch(sets, index, pool);
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

// (dy [B, H], ids, spans, rows, num, weights) -> gradients [n, H], their squares' sum [1]
std::string row_gradients_call(const Call& call, Pool& pool) {
  const Buffer dy = call.operand(0);
  *call.result(1).data<float>() =
      row_gradients(index_of(call, 1), dy.data<float>(), dy.dim(1), call.result(0).data<float>(), pool);
  return "";
}

enum Kind : int64_t { kSgd, kRowAdagrad, kLazyAdam, kExactAdam };

// A table, and by the kind of its optimizer slots [V, H] or [V], for kExactAdam followed by `last` [V]
// and the rates of past steps [R].
struct Parts {
  Bfloat16* half;    // the table; null where it is the first of the floats
  float* floats[4];
  int64_t* last;
  int64_t num_rates;
};

// Reads the results, which follow `place` operands, and checks that XLA did what it was told: else
// it would train a copy.
Parts parts_in_place(const Call& call, int64_t place) {
  Parts parts = {};
  int num_floats = 0;
  for (int64_t i = 0; i < call.num_results(); ++i) {
    const Buffer part = call.result(i);
    if (call.operand(place + i).memory() != part.memory()) {
      throw std::logic_error("XLA gave an update other memory than its operand's");
    }
    int64_t bytes = sizeof(float);
    if (part.type() == kType<int64_t>) {
      parts.last = part.data<int64_t>();
      bytes = sizeof(int64_t);
    } else if (part.type() == kType<Bfloat16>) {
      parts.half = part.data<Bfloat16>();
      num_floats = 1;
      bytes = sizeof(Bfloat16);
    } else {
      if (num_floats == 4) throw std::logic_error("the table has too many parts");
      parts.floats[num_floats++] = part.data<float>();
      parts.num_rates = part.size();  // of the last one
    }
    use_large_pages(part.memory(), part.size() * bytes);
  }
  return parts;
}

// (active [1], scalars [5], step [1], gradients, ids, spans, rows, num, weights, and the parts)
//   -> the parts
// The gradients are rows [n, H], or with `from_dy` the dy [B, H] that they follow from. `active` is
// 0 where nothing is to change.
std::string update_call(const Call& call, Pool& pool) {
  const Parts parts = parts_in_place(call, 9);
  if (*call.operand(0).data<int32_t>() == 0) return "";
  const float* s = call.operand(1).data<float>();
  const Scalars values = {s[0], s[1], s[2], s[3], s[4]};
  const Buffer gradients = call.operand(3);
  const int64_t H = gradients.dim(1), now = *call.operand(2).data<int64_t>();
  const TouchedIndex index = index_of(call, 4);
  const bool from_dy = call.attribute<bool>("from_dy");
  const auto update = [&](const auto& row) {
    if (from_dy) {
      update_from_dy(index, gradients.data<float>(), H, row, pool);
    } else {
      update_from_rows(index.ids, *index.num, gradients.data<float>(), H, row, pool);
    }
    return std::string();
  };
  float* const* floats = parts.floats;
  const auto update_table = [&](auto* table) {
    using Element = std::remove_pointer_t<decltype(table)>;
    switch (call.attribute<int64_t>("kind")) {
      case kSgd: return update(Sgd<Element>{table, now, H, values});
      case kRowAdagrad: return update(RowAdagrad<Element>{table, floats[1], now, H, values});
      case kExactAdam: floats[3][(now - 1) % parts.num_rates] = values.rate; [[fallthrough]];
      case kLazyAdam:
        return update(Adam<Element>{table, floats[1], floats[2], parts.last, now, H, values});
      default: throw std::logic_error("this optimizer of rows is unknown");
    }
  };
  return parts.half != nullptr ? update_table(parts.half) : update_table(floats[0]);
}

// (active [1], all [1], step [1], ids, num, decays [2, R + 1], centers [S], terms [S, J, L], and the
//  parts of exact Adam) -> the parts
std::string catch_up_call(const Call& call, Pool& pool) {
  constexpr int64_t kParts = 8;
  const Parts parts = parts_in_place(call, kParts);
  if (*call.operand(0).data<int32_t>() == 0) return "";
  const Buffer table = call.operand(kParts), terms = call.operand(7);
  if (terms.dim(1) != kTerms) throw std::logic_error("the terms of the catch-up are wrong");
  const int64_t now = *call.operand(2).data<int64_t>(), V = table.dim(0), H = table.dim(1);
  float* const* floats = parts.floats;
  const CatchUp row = {floats[0], floats[1], floats[2], parts.last, now, H,
                       call.attribute<float>("epsilon"), floats[3], parts.num_rates,
                       call.operand(5).data<float>(), call.operand(6).data<float>(),
                       terms.data<float>(), terms.dim(0), terms.dim(2)};
  // No row may miss more steps than there are rates.
  const bool whole = *call.operand(1).data<int32_t>() != 0 || now % parts.num_rates == 0;
  catch_up(call.operand(3).data<int32_t>(), *call.operand(4).data<int32_t>(), V, whole, row, pool);
  return "";
}

}  // namespace
}  // namespace multi_hot

// Registers the handlers with the XLA of this process; returns whether it takes them.
extern "C" bool multi_hot_register(const XLA_FFI_Api* api) {
  using namespace multi_hot;
  return take(api, "multi_hot_forward_16", handler<forward_call<Bfloat16>>) &&
         take(api, "multi_hot_touch", handler<touch_call>) &&
         take(api, "multi_hot_row_gradients", handler<row_gradients_call>) &&
         take(api, "multi_hot_update_rows", handler<update_call>) &&
         take(api, "multi_hot_catch_up", handler<catch_up_call>);
}
