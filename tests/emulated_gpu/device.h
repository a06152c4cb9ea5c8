// What the parts of the emulated device share.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

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

}  // namespace emulated

struct CUctx_st {
  int device;
  size_t used_bytes;
};
struct CUgraphNode_st {
  std::vector<CUgraphNode> dependencies;
  std::vector<emulated::Work> works;  // of a child graph all that it does
};
struct CUgraph_st {
  std::deque<CUgraphNode_st> nodes;
};
struct CUstream_st {
  CUcontext context;
  std::deque<emulated::Work> waiting;
  uint64_t num_enqueued = 0, num_done = 0;
  CUgraph capture = nullptr;
  std::vector<CUgraphNode> last;  // what the next captured node depends on
};
struct CUevent_st {  // a place in a stream
  CUstream stream = nullptr;
  uint64_t num_before = 0;
};

namespace emulated {

// Of the environment: EMULATED_GPU_ and the name.
std::string setting(const char* name, const char* otherwise);
[[noreturn]] void fail(const std::string& message);
// A line of the file that EMULATED_GPU_TRACE names.
void note(const std::string& line);
// A number below `end` that follows from EMULATED_GPU_SEED, for each thread from a sequence of its own.
uint32_t draw(uint32_t end);

// Runs on a stream's own thread after what was enqueued before, or becomes a node of the graph into which the
// stream is captured.
void enqueue(CUstream stream, Work work);
void synchronize(CUstream stream);
// The device of the current context.
int current_device();
CUcontext primary_context(int device);

// What a launch does, or an error where the device cannot run it.
CUresult launch(const CUDA_KERNEL_NODE_PARAMS& given, Work* work);
void run_kernel(const Kernel& kernel, const std::string& name, const char* params, Size grid, Size block,
                uint32_t dynamic_shared);
// A copy between any two addresses.
Work copying(CUdeviceptr to, CUdeviceptr from, size_t bytes);
// Takes a module's variable for memory of the device.
void adopt(CUdeviceptr address, size_t bytes);

}  // namespace emulated
