// dW[j, :] = sum over rows b that hold j of dy[b, :]
//
// Through the transposed index, so that no two threads write one row of dW and every sum runs in
// the order of the rows, whatever the number of threads. In halves it is the sum of two sums, each
// over half of the batch: what two devices with a half each would add up.
// Shapes: B rows, V num_tokens, H units.
#ifndef MULTI_HOT_BACKWARD_H_
#define MULTI_HOT_BACKWARD_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "parallel.h"
#include "row_sum.h"
#include "sets.h"
#include "transpose.h"

namespace multi_hot {

// Writes dW [V, H] from dy [B, H]; returns what is wrong with the sets, or an empty string.
template <class Format>
std::string backward(const Sets& sets, const typename Format::Storage* dy, int64_t units,
                     const TransposedIndex& index, bool halves, typename Format::Storage* dw,
                     Workers& workers) {
  if (std::string fault = transpose(sets, index, workers); !fault.empty()) return fault;
  // Blocks for balance, since frequent ids have most of the rows, but no smaller than need be.
  const int64_t per_thread = sets.num_tokens / workers.num_threads();
  const int64_t ids_per_block = std::clamp<int64_t>(per_thread / 8, 32, 512);
  const int64_t num_blocks = (sets.num_tokens + ids_per_block - 1) / ids_per_block;
  parallel_for(workers, num_blocks, [&](int64_t block) {
    static thread_local std::vector<int32_t> scratch;
    const int64_t begin = block * ids_per_block;
    const int64_t end = std::min(sets.num_tokens, begin + ids_per_block);
    HoldersOfIds holders(sets, index, begin, scratch);
    for (int64_t id = begin; id < end; ++id) {
      const int32_t* rows;
      const int64_t num_rows = holders.next(&rows);
      auto* out = dw + id * units;
      if (halves) {
        sum_rows<Format, true>(dy, units, rows, num_rows, out, holders.num_in_first_half());
      } else {
        sum_rows<Format>(dy, units, rows, num_rows, out);
      }
    }
  });
  return "";
}

}  // namespace multi_hot

#endif  // MULTI_HOT_BACKWARD_H_
