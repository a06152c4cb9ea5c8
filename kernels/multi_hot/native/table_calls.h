// The calls that change a table and its slots, in the memory of their last operands: what a CPU's and a
// GPU's have in common.
//
// Shapes: V num_tokens, H units, R stored rates, S segments of L steps.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "frame.h"
#include "rules.h"

namespace multi_hot {

// Reads a call's last operands, a table and its slots. Checks that XLA did what it was told, and gave its
// first results their memory: else a copy would be trained.
inline Table table_in_place(const Call& call) {
  Table table;
  float** slot = table.slots;
  const int64_t place = call.num_operands() - call.num_results();
  for (int64_t i = 0; i < call.num_results(); ++i) {
    const Buffer part = call.operand(place + i);
    if (part.data<void>() != call.result(i).data<void>()) {
      throw std::logic_error("XLA gave an update other memory than its operand's");
    }
    if (i == 0) {
      table.rows = part.data<void>();
      table.num_tokens = static_cast<int>(part.dim(0));
      table.units = static_cast<int>(part.dim(1));
    } else if (part.type() == XLA_FFI_DataType_S64) {
      table.last = part.data<Int64>();
    } else if (table.last != nullptr) {
      table.rates = part.data<float>();
      table.num_rates = static_cast<int>(part.size());
    } else {
      *slot++ = part.data<float>();
    }
  }
  return table;
}

// Returns the update of a call but for the numbers of the step.
inline Update update_of(const Call& call) {
  Update update = {};
  update.table = table_in_place(call);
  update.kind = static_cast<int>(call.attribute<int64_t>("kind"));
  update.grow_m = call.attribute<float>("grow_m");
  update.grow_v = call.attribute<float>("grow_v");
  update.epsilon = call.attribute<float>("epsilon");
  return update;
}

// Returns what exact Adam makes up for but for the step, from a call (step, ids, num, decays [2, R + 1],
// centers [S], terms [S, kTerms, L], and the table).
inline CatchUp catch_up_of(const Call& call) {
  const Buffer terms = call.operand(5);
  return {table_in_place(call),
          call.operand(3).data<float>(),
          call.operand(4).data<float>(),
          terms.data<float>(),
          call.attribute<float>("epsilon"),
          static_cast<int>(terms.dim(0)),
          static_cast<int>(terms.dim(2)),
          call.attribute<bool>("all"),
          0};
}

}  // namespace multi_hot
