// A table and the slots of its optimizer, which a call changes in place.
//
// Shapes: V num_tokens, H units, R stored rates.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "frame.h"
#include "rules.h"

namespace multi_hot {

struct Parts {
  void* table = nullptr;  // [V, H] of `type`
  XLA_FFI_DataType type = {};
  int64_t num_tokens = 0;     // V
  float* slots[3] = {};       // [V, H] or [V]; of exact Adam then the rates of past steps [R]
  int64_t* last = nullptr;    // [V], of exact Adam
  int64_t num_rates = 0;      // R
};

// Reads the parts, which are a call's last operands from `place` on and its first results. Checks that
// XLA did what it was told, and gave the results the operands' memory: else a copy would be trained.
inline Parts parts_in_place(const Call& call, int64_t place) {
  Parts parts;
  int num_slots = 0;
  for (int64_t i = 0; place + i < call.num_operands(); ++i) {
    const Buffer part = call.operand(place + i);
    if (part.memory() != call.result(i).memory()) {
      throw std::logic_error("XLA gave an update other memory than its operand's");
    }
    if (i == 0) {
      parts.table = part.memory();
      parts.type = part.type();
      parts.num_tokens = part.dim(0);
    } else if (part.type() == XLA_FFI_DataType_S64) {
      parts.last = part.data<int64_t>();
    } else {
      parts.slots[num_slots++] = part.data<float>();
      parts.num_rates = part.size();  // of the last one
    }
  }
  return parts;
}

// Returns the update of these parts but for the step's own numbers; see `of_step`.
inline Update update_of(const Call& call, const Parts& parts, int64_t units) {
  Update update = {};
  update.kind = static_cast<int>(call.attribute<int64_t>("kind"));
  update.units = static_cast<int>(units);
  for (int i = 0; i < 2; ++i) update.slots[i] = parts.slots[i];
  update.last = parts.last;
  update.rates = parts.slots[2];
  update.num_rates = static_cast<int>(parts.num_rates);
  return update;
}

// Returns what exact Adam makes up for but for the step, from a call (active, all, step, ids, num,
// decays [2, R + 1], centers [S], terms [S, J, L], and the parts).
inline CatchUp catch_up_of(const Call& call, const Parts& parts) {
  const Buffer terms = call.operand(7);
  CatchUp row = {};
  row.table = static_cast<float*>(parts.table);
  for (int i = 0; i < 2; ++i) row.moments[i] = parts.slots[i];
  row.last = parts.last;
  row.rates = parts.slots[2];
  row.decays = call.operand(5).data<float>();
  row.centers = call.operand(6).data<float>();
  row.terms = terms.data<float>();
  row.epsilon = call.attribute<float>("epsilon");
  row.units = static_cast<int>(call.operand(8).dim(1));
  row.num_rates = static_cast<int>(parts.num_rates);
  row.num_segments = static_cast<int>(terms.dim(0));
  row.length = static_cast<int>(terms.dim(2));
  return row;
}

}  // namespace multi_hot
