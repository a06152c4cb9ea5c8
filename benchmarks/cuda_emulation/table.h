// The emulated kernels by name. Include it behind the kernels.
#pragma once

#include <map>
#include <string>

#include "launch.h"

namespace emulation {

// What passes the arguments on to a kernel, whatever their type.
template <auto kernel>
struct Caller;
template <class Arguments, void (*kernel)(Arguments)>
struct Caller<kernel> {
  static void run(const void* arguments) { kernel(*static_cast<const Arguments*>(arguments)); }
};

// Returns null where there is none of that name.
inline Kernel kernel_called(const char* name) {
#define KERNEL(name) {"multi_hot_" #name, &Caller<&multi_hot::multi_hot_##name>::run}
#define KERNELS(type, columns)                                                     \
  KERNEL(forward_##type##_##columns), KERNEL(forward_once_##type##_##columns),     \
      KERNEL(sum_tiles_##type##_##columns), KERNEL(sum_runs_##type##_##columns)
#define KERNELS_OF(type) KERNEL(prepare_##type), KERNELS(type, 1), KERNELS(type, 2), KERNELS(type, 4)
  static const std::map<std::string, Kernel> kernels = {
      KERNEL(count), KERNEL(scatter), KERNEL(take_splits), KERNEL(take_values),
      KERNEL(count_ids), KERNEL(place_ids), KERNEL(square_rows), KERNEL(sum_squares),
      KERNEL(update_rows_f32), KERNEL(update_rows_bf16), KERNEL(catch_up),
       KERNELS_OF(f32), KERNELS_OF(bf16), KERNELS_OF(f16)};
#undef KERNELS_OF
#undef KERNELS
#undef KERNEL
  const auto found = kernels.find(name);
  return found == kernels.end() ? nullptr : found->second;
}

}  // namespace emulation
