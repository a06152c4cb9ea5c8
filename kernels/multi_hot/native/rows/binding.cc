// Custom calls for the touched rows of a table, and products of a bfloat16 table. An update changes
// the table and what belongs to it in place: XLA is told that these results are the operands' own
// memory.
//
// Shapes: B rows, V num_tokens, H units, N values, n slots of touched rows.
#include <stdexcept>

#include "../calls.h"
#include "large_pages.h"
#include "table_update.h"
#include "touched.h"

// How a signature without a remainder of operands names the pool: XLA derives its binding.
template <>
struct xla::ffi::CtxBinding<xla::ffi::ThreadPool> {
  using Ctx = xla::ffi::ThreadPool;
};

namespace multi_hot {
namespace {

using Counts = ffi::Result<Int32s>;
constexpr char kNumTokens[] = "num_tokens";
constexpr char kUnique[] = "unique";

// (values [N], row_splits [B + 1], weights [N]) -> ids [n], spans [n, 2], rows [N], num [1],
// weights [N], and workspace: entries [N], counts [C + 2, K], weights [N]. Without weights all of
// theirs are empty.
ffi::Error touch_call(ffi::ThreadPool pool, Int32s values, Int64s splits, Floats weights,
                      ffi::Attr<int64_t, kNumTokens> num_tokens, ffi::Attr<bool, kUnique> unique,
                      Counts ids, Counts spans, Counts rows, Counts num, ffi::Result<Floats> own,
                      ffi::Result<Int64s> entries, Counts counts, ffi::Result<Floats> placed) {
  ffi::ErrorOr<const float*> given = nullptr;
  if (weights.element_count() > 0) given = weights_in(weights, values.element_count());
  return run_with_sets(values, splits, given, *num_tokens, *unique, [&](const Sets& sets) {
    const bool weighted = sets.weights != nullptr;
    const TouchedIndex index = {
        ids->typed_data(), spans->typed_data(), rows->typed_data(),
        weighted ? own->typed_data() : nullptr, num->typed_data(),
        entries->typed_data(), placed->typed_data(), counts->typed_data(),
        static_cast<int64_t>(ids->element_count()), counts->dimensions()[0] - 2,
        counts->dimensions()[1]};
    const int64_t N = sets.num_values;
    if (index.num_slots < std::min(N, sets.num_tokens) || index.num_chunks < 1 ||
        static_cast<int64_t>(rows->element_count()) < N ||
        static_cast<int64_t>(entries->element_count()) < N ||
        (index.num_buckets & (index.num_buckets - 1)) != 0) {
      throw std::logic_error("the workspace of the touched rows is too small");
    }
    return touch(sets, index, pool);
  });
}

// An index that was computed before. Without weights their buffer is empty.
TouchedIndex index_of(Int32s& ids, Int32s& spans, Int32s& rows, Int32s& num, Floats& weights) {
  TouchedIndex index = {};
  index.ids = ids.typed_data();
  index.spans = spans.typed_data();
  index.rows = rows.typed_data();
  index.num = num.typed_data();
  index.weights = weights.element_count() > 0 ? weights.typed_data() : nullptr;
  return index;
}

// (dy [B, H], ids, spans, rows, num, weights) -> gradients [n, H], their squares' sum [1]
ffi::Error row_gradients_call(ffi::ThreadPool pool, Floats dy, Int32s ids, Int32s spans,
                              Int32s rows, Int32s num, Floats weights, ffi::Result<Floats> gradients,
                              ffi::Result<Floats> squares) {
  const TouchedIndex index = index_of(ids, spans, rows, num, weights);
  return run([&] {
    *squares->typed_data() = row_gradients(index, dy.typed_data(), dy.dimensions()[1],
                                           gradients->typed_data(), pool);
    return std::string();
  });
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

// Reads the results, and checks that XLA did what it was told: else it would train a copy.
ffi::ErrorOr<Parts> parts_in_place(ffi::RemainingArgs& before, ffi::RemainingRets& after) {
  Parts parts = {};
  int num_floats = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    auto old = before.get<ffi::AnyBuffer>(i);
    auto result = after.get<ffi::AnyBuffer>(i);
    if (!old.has_value() || !result.has_value() ||
        old->untyped_data() != (*result)->untyped_data()) {
      return ffi::Unexpected(ffi::Error(ffi::ErrorCode::kInternal,
                                        "XLA gave an update other memory than its operand's"));
    }
    use_large_pages((*result)->untyped_data(), static_cast<int64_t>((*result)->size_bytes()));
    if ((*result)->element_type() == ffi::DataType::S64) {
      parts.last = static_cast<int64_t*>((*result)->untyped_data());
    } else if ((*result)->element_type() == ffi::DataType::BF16) {
      parts.half = static_cast<Bfloat16*>((*result)->untyped_data());
      num_floats = 1;
    } else {
      parts.floats[num_floats++] = static_cast<float*>((*result)->untyped_data());
      parts.num_rates = static_cast<int64_t>((*result)->element_count());  // of the last one
    }
  }
  return parts;
}

// (active [1], scalars [5], step [1], gradients, ids, spans, rows, num, weights, and the parts)
//   -> the parts
// The gradients are rows [n, H], or with `from_dy` the dy [B, H] that they follow from. `active` is
// 0 where nothing is to change.
ffi::Error update_call(ffi::ThreadPool pool, Int32s active, Floats scalars, Int64s step,
                       Floats gradients, Int32s ids, Int32s spans, Int32s rows, Int32s num,
                       Floats weights, ffi::RemainingArgs before, int64_t kind, bool from_dy,
                       ffi::RemainingRets after) {
  auto parts = parts_in_place(before, after);
  if (!parts.has_value()) return parts.error();
  if (*active.typed_data() == 0) return ffi::Error::Success();
  const int64_t H = gradients.dimensions()[1], now = *step.typed_data();
  const float* s = scalars.typed_data();
  const Scalars values = {s[0], s[1], s[2], s[3], s[4]};
  const auto update = [&](const auto& row) {
    return run([&] {
      if (from_dy) {
        const TouchedIndex index = index_of(ids, spans, rows, num, weights);
        update_from_dy(index, gradients.typed_data(), H, row, pool);
      } else {
        update_from_rows(ids.typed_data(), *num.typed_data(), gradients.typed_data(), H, row, pool);
      }
      return std::string();
    });
  };
  float* const* floats = parts->floats;
  const auto update_table = [&](auto* table) {
    using Element = std::remove_pointer_t<decltype(table)>;
    switch (kind) {
      case kSgd: return update(Sgd<Element>{table, now, H, values});
      case kRowAdagrad: return update(RowAdagrad<Element>{table, floats[1], now, H, values});
      case kExactAdam: floats[3][(now - 1) % parts->num_rates] = values.rate; [[fallthrough]];
      case kLazyAdam:
        return update(Adam<Element>{table, floats[1], floats[2], parts->last, now, H, values});
      default: return ffi::Error(ffi::ErrorCode::kInternal, "this optimizer of rows is unknown");
    }
  };
  return parts->half != nullptr ? update_table(parts->half) : update_table(floats[0]);
}

using Halves = ffi::Buffer<ffi::BF16>;

constexpr auto* forward_halves = forward_call<Bfloat16, Halves>;

// (active [1], all [1], step [1], ids, num, decays [2, R + 1], centers [S], terms [S, J, L], and the
//  parts of exact Adam) -> the parts
ffi::Error catch_up_call(ffi::ThreadPool pool, Int32s active, Int32s all, Int64s step, Int32s ids,
                         Int32s num, Floats decays, Floats centers, Floats terms,
                         ffi::RemainingArgs before, float epsilon, ffi::RemainingRets after) {
  auto parts = parts_in_place(before, after);
  if (!parts.has_value()) return parts.error();
  if (*active.typed_data() == 0) return ffi::Error::Success();
  const auto table = before.get<Floats>(0);
  if (!table.has_value() || terms.dimensions()[1] != kTerms) {
    return ffi::Error(ffi::ErrorCode::kInternal, "the operands of the catch-up are wrong");
  }
  const int64_t now = *step.typed_data(), V = table->dimensions()[0], H = table->dimensions()[1];
  float* const* floats = parts->floats;
  const CatchUp row = {floats[0], floats[1], floats[2], parts->last, now, H, epsilon,
                       floats[3], parts->num_rates, decays.typed_data(), centers.typed_data(),
                       terms.typed_data(), terms.dimensions()[0], terms.dimensions()[2]};
  // No row may miss more steps than there are rates.
  const bool whole = *all.typed_data() != 0 || now % parts->num_rates == 0;
  return run([&] {
    catch_up(ids.typed_data(), *num.typed_data(), V, whole, row, pool);
    return std::string();
  });
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(kForward, forward_halves, product_binding<Halves>());
XLA_FFI_DEFINE_HANDLER(kTouch, touch_call);
XLA_FFI_DEFINE_HANDLER(kRowGradients, row_gradients_call);
XLA_FFI_DEFINE_HANDLER_SYMBOL(kUpdateRows, update_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Int32s>()
                                  .Arg<Floats>()
                                  .Arg<Int64s>()
                                  .Arg<Floats>()
                                  .Arg<Int32s>()
                                  .Arg<Int32s>()
                                  .Arg<Int32s>()
                                  .Arg<Int32s>()
                                  .Arg<Floats>()
                                  .RemainingArgs()
                                  .Attr<int64_t>("kind")
                                  .Attr<bool>("from_dy")
                                  .RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(kCatchUp, catch_up_call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Int32s>()
                                  .Arg<Int32s>()
                                  .Arg<Int64s>()
                                  .Arg<Int32s>()
                                  .Arg<Int32s>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .RemainingArgs()
                                  .Attr<float>("epsilon")
                                  .RemainingRets());

}  // namespace
}  // namespace multi_hot

// Registers the handlers with the XLA of this process; returns whether it takes them.
extern "C" bool multi_hot_register(const XLA_FFI_Api* api) {
  using namespace multi_hot;
  const auto taken = [api](const char* name, XLA_FFI_Handler* handler) {
    return ffi::Ffi::RegisterStaticHandler(api, name, "Host", handler) == nullptr;
  };
  return taken("multi_hot_forward_16", kForward) &&
         taken("multi_hot_touch", kTouch) && taken("multi_hot_row_gradients", kRowGradients) &&
         taken("multi_hot_update_rows", kUpdateRows) && taken("multi_hot_catch_up", kCatchUp);
}
