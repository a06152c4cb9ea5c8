// The kernels by name, one for each type of table and number of columns that a lane adds.
#include "forward.h"
#include "sort.h"
#include "sums.h"
#include "take_rows.h"
#include "touched.h"
#include "update.h"

namespace multi_hot {

#define FORWARD(name, T, columns)                                                                  \
  extern "C" __global__ void __launch_bounds__(32 * kForwardWarps, 6)                               \
      multi_hot_forward_##name##_##columns(const ForwardArguments a) {                             \
    forward<T, columns, false>(of_step(a), nullptr);                                               \
  }                                                                                                \
  extern "C" __global__ void __launch_bounds__(32 * kForwardWarps, 4)                               \
      multi_hot_forward_once_##name##_##columns(const ForwardArguments a) {                        \
    __shared__ int slots[kForwardWarps * kSlots];                                                  \
    forward<T, columns, true>(of_step(a), slots);                                                  \
  }                                                                                                \
  extern "C" __global__ void __launch_bounds__(32 * kSumWarps, 6)                                   \
      multi_hot_sum_tiles_##name##_##columns(const SumArguments a) {                               \
    sum_tiles<T, columns>(of_step(a));                                                             \
  }                                                                                                \
  extern "C" __global__ void __launch_bounds__(32 * kSumWarps, 6)                                   \
      multi_hot_sum_runs_##name##_##columns(const SumArguments a) {                                \
    sum_runs<T, columns>(of_step(a));                                                              \
  }

#define ALL_OF(name, T)                                                                            \
  FORWARD(name, T, 1)                                                                              \
  FORWARD(name, T, 2)                                                                              \
  FORWARD(name, T, 4)

ALL_OF(f32, float)
ALL_OF(bf16, Bfloat16)
ALL_OF(f16, Float16)

extern "C" __global__ void __launch_bounds__(kPrepareThreads) multi_hot_prepare(const PrepareArguments a) {
  prepare(of_block(a));
}
extern "C" __global__ void __launch_bounds__(kSortThreads) multi_hot_count(const SortArguments a) {
  count(of_block(a));
}
extern "C" __global__ void __launch_bounds__(kSortThreads) multi_hot_scatter(const SortArguments a) {
  scatter(of_block(a));
}
extern "C" __global__ void __launch_bounds__(kSortThreads) multi_hot_count_ids(const TouchArguments a) {
  count_ids(a);
}
extern "C" __global__ void __launch_bounds__(kSortThreads) multi_hot_place_ids(const TouchArguments a) {
  place_ids(a);
}
extern "C" __global__ void __launch_bounds__(kSquareThreads)
    multi_hot_square_rows(const SquareArguments a) {
  square_rows(a);
}
extern "C" __global__ void __launch_bounds__(kSquareThreads)
    multi_hot_sum_squares(const SquareArguments a) {
  sum_squares(a);
}
extern "C" __global__ void __launch_bounds__(32 * kUpdateWarps, 4)
    multi_hot_update_rows_f32(const UpdateArguments a) {
  update_rows<float>(a);
}
extern "C" __global__ void __launch_bounds__(32 * kUpdateWarps, 4)
    multi_hot_update_rows_bf16(const UpdateArguments a) {
  update_rows<Bfloat16>(a);
}
extern "C" __global__ void __launch_bounds__(32 * kUpdateWarps, 4)
    multi_hot_catch_up(const CatchUpArguments a) {
  catch_up(a);
}
extern "C" __global__ void __launch_bounds__(kSplitThreads) multi_hot_take_splits(const TakeArguments a) {
  take_splits(a);
}
extern "C" __global__ void __launch_bounds__(kTakeThreads) multi_hot_take_values(const TakeArguments a) {
  take_values(a);
}

}  // namespace multi_hot
