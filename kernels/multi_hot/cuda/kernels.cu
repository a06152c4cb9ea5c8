// The kernels by name: their blocks' threads, perhaps with the blocks that a multiprocessor is to hold, and
// what they do with their arguments `a`.
#include "forward.h"
#include "sort.h"
#include "sums.h"
#include "touched.h"
#include "update.h"

namespace multi_hot {

#define KERNEL(name, bounds, Arguments, ...)                                          \
  extern "C" __global__ void __launch_bounds__ bounds multi_hot_##name(const Arguments a) { \
    __VA_ARGS__;                                                                      \
  }

// For each type of table, and each number of columns that a lane adds.
#define PASSES(name, T, columns)                                                              \
  KERNEL(forward_##name##_##columns, (32 * kForwardWarps, 6), ForwardArguments,               \
         forward<T, columns>(of_step(a)))                                                     \
  KERNEL(sum_tiles_##name##_##columns, (32 * kSumWarps, 6), SumArguments,                     \
         sum_tiles<T, columns>(of_step(a)))                                                   \
  KERNEL(sum_runs_##name##_##columns, (32 * kSumWarps, 6), SumArguments,                      \
         sum_runs<T, columns>(of_step(a)))

#define ALL_OF(name, T) \
  PASSES(name, T, 1)    \
  PASSES(name, T, 2)    \
  PASSES(name, T, 4)

ALL_OF(f32, float)
ALL_OF(bf16, Bfloat16)
ALL_OF(f16, Float16)

KERNEL(prepare, (kPrepareThreads), PrepareArguments, prepare(of_block(a)))
KERNEL(count, (kSortThreads), SortArguments, count(of_block(a)))
KERNEL(scatter, (kSortThreads), SortArguments, scatter(of_block(a)))
KERNEL(count_ids, (kSortThreads), TouchArguments, count_ids(of_step(a)))
KERNEL(place_ids, (kSortThreads), TouchArguments, place_ids(of_step(a)))
KERNEL(update_rows_f32, (32 * kUpdateWarps, 4), UpdateArguments, update_rows<float>(a))
KERNEL(update_rows_bf16, (32 * kUpdateWarps, 4), UpdateArguments, update_rows<Bfloat16>(a))
KERNEL(catch_up, (32 * kUpdateWarps, 4), CatchUpArguments, catch_up(a))

}  // namespace multi_hot
