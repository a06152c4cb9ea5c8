// Launches of emulated kernels.
#pragma once

#include "emulation.h"

namespace emulation {

using Kernel = void (*)(const void* arguments);

// Runs all blocks, one after another, in an order that follows from the seed.
void launch(Kernel kernel, const void* arguments, Dim grid, Dim block, std::uint64_t seed);

}  // namespace emulation
