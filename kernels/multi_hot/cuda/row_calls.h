// Custom calls for the touched rows of a table. They take and return what the host's do (native/rows),
// but for what an index holds. An update changes the table and what belongs to it in place: XLA is told
// that these results are the operands' own memory.
//
// Shapes: B rows, V num_tokens, H units, N values, n = min(N, V) slots.
#pragma once

#include "calls.h"
#include "driver.h"
#include "../native/rules.h"
#include "row_passes.h"

namespace multi_hot {

// An index that was computed before. Without weights their buffer is empty.
inline Touched index_of(Ints& ids, Ints& slots, Ints& rows, Ints& num, Floats& weights) {
  return {ids.typed_data(), slots.typed_data(), rows.typed_data(), num.typed_data(),
          weights.element_count() > 0 ? weights.typed_data() : nullptr,
          static_cast<int>(rows.element_count()), static_cast<int>(ids.element_count())};
}

// A table, and what is changed with it: slots [V, H] or [V], of exact Adam also `last` [V] and the rates
// of past steps [R].
struct Parts {
  std::string type;  // of the table, in the kernels' names
  void* table = nullptr;
  float* floats[3] = {};
  long long* last = nullptr;
  int num_rates = 0;

  // Returns whether the results are the operands' own memory, as XLA was told: else it would train a
  // copy.
  bool read(ffi::RemainingArgs& before, ffi::RemainingRets& after) {
    int num_floats = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
      auto old = before.get<ffi::AnyBuffer>(i);
      auto result = after.get<ffi::AnyBuffer>(i);
      if (!old.has_value() || !result.has_value() || i > 4 ||
          old->untyped_data() != (*result)->untyped_data()) {
        return false;
      }
      if (i == 0) {
        const char* const name = kernel_type(old->element_type());
        type = name == nullptr ? "" : name;
        table = old->untyped_data();
      } else if (old->element_type() == Type::S64) {
        last = static_cast<long long*>(old->untyped_data());
      } else if (num_floats < 3) {
        floats[num_floats++] = static_cast<float*>(old->untyped_data());
        num_rates = static_cast<int>(old->element_count());  // of the last one
      }
    }
    return true;
  }
};

inline ffi::Error copied() {
  return ffi::Error(ffi::ErrorCode::kInternal, "XLA gave an update other memory than its operand's");
}

// (values [N], row_splits [B + 1], weights [N]) -> ids [n], slots [at least N + 1], rows [N], num [1],
// weights [N], and the workspace. Without weights all of theirs are empty.
inline ffi::Error touch_call(void* stream, ffi::AnyBuffer values, ffi::AnyBuffer splits,
                             Floats weights, int64_t num_tokens, ffi::Result<Ints> ids,
                             ffi::Result<Ints> slots, ffi::Result<Ints> rows, ffi::Result<Ints> num,
                             ffi::Result<Floats> own, ffi::Result<Ints> workspace) {
  DeviceSets sets;
  const std::string fault = read_sets(values, splits, num_tokens, &sets);
  if (!fault.empty()) return refused(fault);
  if (sets.num_steps > 1) return refused("rows are touched by one batch");
  const int64_t N = sets.num_values;
  if (weights.element_count() > 0) {
    if (static_cast<int64_t>(weights.element_count()) != N) {
      return refused("there must be one float32 weight for each value");
    }
    sets.weights = weights.typed_data();
  }
  const Touched touched = index_of(*ids, *slots, *rows, *num, *own);
  if (touched.num_slots < std::min(N, num_tokens) || touched.num_values != N ||
      static_cast<int64_t>(slots->element_count()) < N + 1 ||
      (own->element_count() > 0) != (weights.element_count() > 0) ||
      static_cast<int64_t>(workspace->element_count()) < IndexWorkspace(N, num_tokens).size) {
    return too_small();
  }
  DriverQueue queue = {stream};
  return reported(run_touch(queue, sets, touched, workspace->typed_data()));
}

// (dy [B, H], ids, slots, rows, num, weights)
//   -> gradients [n, H], their squares' sum [1], and the workspace
inline ffi::Error row_gradients_call(void* stream, Floats dy, Ints ids, Ints slots, Ints rows,
                                     Ints num, Floats weights, ffi::Result<Floats> gradients,
                                     ffi::Result<Floats> squares, ffi::Result<Ints> workspace) {
  const Touched touched = index_of(ids, slots, rows, num, weights);
  const int units = static_cast<int>(dy.dimensions()[1]);
  if (static_cast<int64_t>(workspace->element_count()) < RowWorkspace(touched.num_values, units).size) {
    return too_small();
  }
  DriverQueue queue = {stream};
  int* const memory = workspace->typed_data();
  float* const to = gradients->typed_data();
  const std::string fault = run_row_gradients(queue, touched, dy.typed_data(), units, to, memory);
  if (!fault.empty()) return reported(fault);
  return reported(run_squares(queue, touched, to, units, squares->typed_data(), memory));
}

// (active [1], scalars [5], step [1], gradients, ids, slots, rows, num, weights, and the parts: a
// table [V, H] and its slots) -> the parts, in place; then with `from_dy` the workspace, whose
// last part [n, H] floats are the gradients.
// The gradients are rows [n, H], or with `from_dy` the dy [B, H] that they follow from.
inline ffi::Error update_rows_call(void* stream, Ints active, Floats scalars,
                                   ffi::Buffer<ffi::S64> step, Floats gradients, Ints ids,
                                   Ints slots, Ints rows, Ints num, Floats weights,
                                   ffi::RemainingArgs before, int64_t kind, bool from_dy,
                                   ffi::RemainingRets after) {
  Parts parts;
  if (!parts.read(before, after)) return copied();
  const bool is_half = parts.type == "bf16";
  if ((parts.type != "f32" && !is_half) || (is_half && kind == kExactAdam) || kind < kSgd ||
      kind > kExactAdam || static_cast<int64_t>(before.size()) != (kind == kExactAdam ? 5 : kind + 1)) {
    return ffi::Error(ffi::ErrorCode::kInternal, "this optimizer of rows is unknown");
  }
  UpdateArguments a = {};
  a.table = parts.table;
  a.slots[0] = parts.floats[0];
  a.slots[1] = parts.floats[1];
  a.last = parts.last;
  a.rates = parts.floats[2];
  a.num_rates = parts.num_rates;
  const Touched touched = index_of(ids, slots, rows, num, weights);
  a.active = active.typed_data();
  a.scalars = scalars.typed_data();
  a.step = reinterpret_cast<const long long*>(step.typed_data());
  a.gradients = gradients.typed_data();
  a.ids = touched.ids;
  a.num = touched.num;
  a.units = static_cast<int>(gradients.dimensions()[1]);
  a.kind = static_cast<int>(kind);
  DriverQueue queue = {stream};
  if (from_dy) {
    auto workspace = after.get<Ints>(before.size());
    const int64_t sums = RowWorkspace(touched.num_values, a.units).size;
    if (!workspace.has_value() || static_cast<int64_t>((*workspace)->element_count()) <
                                      sums + int64_t{touched.num_slots} * a.units) {
      return too_small();
    }
    int* const memory = (*workspace)->typed_data();
    float* const own = reinterpret_cast<float*>(memory + sums);
    const std::string fault =
        run_row_gradients(queue, touched, gradients.typed_data(), a.units, own, memory);
    if (!fault.empty()) return reported(fault);
    a.gradients = own;
  }
  return reported(run_update(queue, parts.type, touched.num_slots, a));
}

// (active [1], all [1], step [1], ids, num, decays [2, R + 1], centers [S], terms [S, J, L], and the
// parts of exact Adam) -> the parts, in place
inline ffi::Error catch_up_call(void* stream, Ints active, Ints all, ffi::Buffer<ffi::S64> step,
                                Ints ids, Ints num, Floats decays, Floats centers, Floats terms,
                                ffi::RemainingArgs before, float epsilon,
                                ffi::RemainingRets after) {
  Parts parts;
  if (!parts.read(before, after)) return copied();
  const auto table = before.get<Floats>(0);
  if (!table.has_value() || before.size() != 5 || terms.dimensions()[1] != kTerms ||
      parts.last == nullptr || (parts.num_rates & (parts.num_rates - 1)) != 0 ||
      static_cast<int64_t>(decays.element_count()) != 2 * (int64_t{parts.num_rates} + 1)) {
    return ffi::Error(ffi::ErrorCode::kInternal, "the operands of the catch-up are wrong");
  }
  const CatchUpArguments a = {
      active.typed_data(), all.typed_data(), reinterpret_cast<const long long*>(step.typed_data()),
      ids.typed_data(), num.typed_data(), decays.typed_data(), centers.typed_data(),
      terms.typed_data(), static_cast<float*>(parts.table), {parts.floats[0], parts.floats[1]},
      parts.last, parts.floats[2], epsilon, static_cast<int>(table->dimensions()[0]),
      static_cast<int>(table->dimensions()[1]), parts.num_rates,
      static_cast<int>(terms.dimensions()[0]), static_cast<int>(terms.dimensions()[2])};
  DriverQueue queue = {stream};
  return reported(run_catch_up(queue, static_cast<int>(ids.element_count()), a));
}

inline auto touch_binding() {
  return ffi::Ffi::Bind()
      .Ctx<Stream>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Arg<Floats>()
      .Attr<int64_t>("num_tokens")
      .Ret<Ints>()
      .Ret<Ints>()
      .Ret<Ints>()
      .Ret<Ints>()
      .Ret<Floats>()
      .Ret<Ints>();
}

inline auto row_gradients_binding() {
  return ffi::Ffi::Bind()
      .Ctx<Stream>()
      .Arg<Floats>()
      .Arg<Ints>()
      .Arg<Ints>()
      .Arg<Ints>()
      .Arg<Ints>()
      .Arg<Floats>()
      .Ret<Floats>()
      .Ret<Floats>()
      .Ret<Ints>();
}

inline auto update_rows_binding() {
  return ffi::Ffi::Bind()
      .Ctx<Stream>()
      .Arg<Ints>()
      .Arg<Floats>()
      .Arg<ffi::Buffer<ffi::S64>>()
      .Arg<Floats>()
      .Arg<Ints>()
      .Arg<Ints>()
      .Arg<Ints>()
      .Arg<Ints>()
      .Arg<Floats>()
      .RemainingArgs()
      .Attr<int64_t>("kind")
      .Attr<bool>("from_dy")
      .RemainingRets();
}

inline auto catch_up_binding() {
  return ffi::Ffi::Bind()
      .Ctx<Stream>()
      .Arg<Ints>()
      .Arg<Ints>()
      .Arg<ffi::Buffer<ffi::S64>>()
      .Arg<Ints>()
      .Arg<Ints>()
      .Arg<Floats>()
      .Arg<Floats>()
      .Arg<Floats>()
      .RemainingArgs()
      .Attr<float>("epsilon")
      .RemainingRets();
}

}  // namespace multi_hot
