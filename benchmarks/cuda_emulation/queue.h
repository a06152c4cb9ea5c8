// What emulated kernels are launched with. Include it behind the kernels.
#pragma once

#include <cstdint>
#include <string>

#include "launch.h"
#include "table.h"

// Runs the launches one after another, like a stream.
struct EmulatedQueue {
  std::uint64_t seed;
  int num_launches = 0;

  template <class Arguments>
  std::string launch(const std::string& kernel, unsigned x, unsigned y, unsigned threads,
                     const Arguments& arguments) {
    const emulation::Kernel found = emulation::kernel_called(kernel.c_str());
    if (found == nullptr) return "there is no kernel " + kernel;
    emulation::launch(found, &arguments, {x, y, 1}, {threads, 1, 1}, seed + ++num_launches);
    return "";
  }
  std::string clear(int* word) {
    *word = 0;
    return "";
  }
};
