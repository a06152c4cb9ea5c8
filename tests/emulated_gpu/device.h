// What the parts of the emulated device share.
#pragma once

#include <cuda.h>
#undef cuGetProcAddress
#undef cuGraphInstantiate
#undef cuGraphExecUpdate

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#include "kernel.h"

#define API extern "C"
// A function of the API that does one thing, and succeeds.
#define SUCCEEDS(name, parameters, ...) \
  API CUresult name parameters {        \
    __VA_ARGS__;                        \
    return CUDA_SUCCESS;                \
  }

namespace emulated {

using Work = std::function<void()>;
struct Size {
  uint32_t x, y, z;
};

// Of the environment: EMULATED_GPU_ and the name.
std::string setting(const char* name, const char* otherwise);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// A line of the file that EMULATED_GPU_TRACE names.
void note(const char* format, ...) __attribute__((format(printf, 1, 2)));
// A number below `end` that follows from EMULATED_GPU_SEED, for each thread from a sequence of its own.
uint32_t draw(uint32_t end);

// Runs on a stream's own thread after what was enqueued before, or becomes a node of the graph into which the
// stream is captured.
void enqueue(CUstream stream, Work work);
void synchronize(CUstream stream);
void synchronize_device();
// The device of the current context.
int current_device();
CUstream default_stream();
CUcontext primary_context(int device);

void run_kernel(const Kernel& kernel, const char* name, const char* params, Size grid, Size block,
                uint32_t dynamic_shared);
CUresult launch(CUfunction function, Size grid, Size block, uint32_t shared, void** params, void** extra,
                Work* work);
// A copy between any two addresses.
Work copying(void* to, const void* from, size_t bytes);
// Takes a module's variable for memory of the device.
void adopt(void* address, size_t bytes);
bool is_on_device(const void* address, int* device);

}  // namespace emulated
