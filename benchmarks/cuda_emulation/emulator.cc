// The CUDA kernels, compiled for the CPU, as functions for ctypes.
#include "emulation.h"

#include "../../kernels/multi_hot/cuda/kernels.cu"
#include "../../kernels/multi_hot/cuda/row_passes.h"
#include "queue.h"

#include <cstdio>

namespace {

bool reported(const std::string& fault) {
  if (!fault.empty()) std::fprintf(stderr, "emulator: %s\n", fault.c_str());
  return !fault.empty();
}

}  // namespace

extern "C" {

long long emulator_workspace(long long num_values, long long num_tokens, long long units) {
  return multi_hot::Workspace(num_values, num_tokens, units).size;
}

int emulator_forward(const char* type, const multi_hot::DeviceSets* sets, int unique,
                     const void* table, int units, void* y, std::uint64_t seed) {
  EmulatedQueue queue = {seed};
  return reported(multi_hot::run_forward(queue, type, *sets, unique != 0, table, units, y));
}

int emulator_backward(const char* type, const multi_hot::DeviceSets* sets, const void* dy, int units,
                      void* dw, int* workspace, std::uint64_t seed) {
  EmulatedQueue queue = {seed};
  return reported(multi_hot::run_backward(queue, type, *sets, dy, units, dw, workspace));
}

long long emulator_row_workspace(long long num_values, long long units) {
  return multi_hot::RowWorkspace(num_values, units).size;
}

int emulator_touch(const multi_hot::DeviceSets* sets, const multi_hot::Touched* touched,
                   int* workspace, std::uint64_t seed) {
  EmulatedQueue queue = {seed};
  return reported(multi_hot::run_touch(queue, *sets, *touched, workspace));
}

int emulator_row_gradients(const multi_hot::Touched* touched, const float* dy, int units,
                           float* gradients, float* squares, int* workspace, std::uint64_t seed) {
  EmulatedQueue queue = {seed};
  using namespace multi_hot;
  return reported(run_row_gradients(queue, *touched, dy, units, gradients, workspace)) ||
         reported(run_squares(queue, *touched, gradients, units, squares, workspace));
}
}
