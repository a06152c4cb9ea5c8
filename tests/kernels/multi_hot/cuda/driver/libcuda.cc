// A libcuda.so.1 that runs the emulated kernels where the driver launches CUDA's, and writes down every
// call: a line each in the file that FAKE_CUDA_LOG names. Its devices, contexts and what fails are set by
// `fake_cuda_set`. Pointers of the device are those of the host.
#include "../../../../../benchmarks/cuda_emulation/emulation.h"

#include "../../../../../kernels/multi_hot/cuda/kernels.cu"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../../../../../benchmarks/cuda_emulation/table.h"

namespace {

constexpr int kInvalidImage = 200, kNotFound = 500, kLaunchFailed = 719;
long context = 1;     // of this thread; 0: none is current
int capability = 90;  // of the device of context 1; that of context n is n - 1 more
std::string failing;  // the function that fails
std::uint64_t launches = 0;

void log(const std::string& line) {
  const char* path = std::getenv("FAKE_CUDA_LOG");
  if (path == nullptr) return;
  std::FILE* file = std::fopen(path, "a");
  std::fprintf(file, "%s\n", line.c_str());
  std::fclose(file);
}

std::string number(const void* pointer) {
  return std::to_string(reinterpret_cast<std::uintptr_t>(pointer));
}

bool fails(const char* function) { return failing == function; }

}  // namespace

extern "C" {

void fake_cuda_set(long current, int capability_of_first, const char* failing_function) {
  context = current;
  capability = capability_of_first;
  failing = failing_function;
}

int cuCtxGetCurrent(void** current) {
  *current = reinterpret_cast<void*>(context);
  return 0;
}
int cuCtxGetDevice(int* device) {
  *device = static_cast<int>(context) - 1;
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int own = capability + device;
  *value = attribute == 75 ? own / 10 : attribute == 76 ? own % 10 : -1;
  return 0;
}
int cuThreadExchangeStreamCaptureMode(int* mode) {
  static int current = 0;
  std::swap(*mode, current);
  log("capture_mode " + std::to_string(current));
  return 0;
}
int cuModuleLoadData(void** module, const void* image) {
  log("load " + std::to_string(context) + " " + static_cast<const char*>(image));
  if (fails("cuModuleLoadData")) return kInvalidImage;
  *module = reinterpret_cast<void*>(1000 + context);
  return 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  log("function " + number(module) + " " + name);
  *function = reinterpret_cast<void*>(emulation::kernel_called(name));
  return *function == nullptr || fails("cuModuleGetFunction") ? kNotFound : 0;
}
int cuMemsetD32Async(std::uint64_t address, unsigned value, std::size_t count, void* stream) {
  log("clear " + number(stream));
  for (std::size_t i = 0; i < count; ++i) reinterpret_cast<unsigned*>(address)[i] = value;
  return 0;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads,
                   unsigned threads_y, unsigned threads_z, unsigned shared, void* stream,
                   void** parameters, void** extra) {
  log("launch " + number(stream));
  if (fails("cuLaunchKernel")) return kLaunchFailed;
  // What a device accepts.
  if (x == 0 || y == 0 || y > 65'535 || z != 1 || threads == 0 || threads > 1024) return 1;
  if (threads_y != 1 || threads_z != 1 || shared != 0 || extra != nullptr) return 1;
  emulation::launch(reinterpret_cast<emulation::Kernel>(function), parameters[0], {x, y, 1},
                    {threads, 1, 1}, ++launches);
  return 0;
}
int cuGetErrorString(int status, const char** text) {
  *text = status == kLaunchFailed ? "unspecified launch failure" : nullptr;
  return 0;
}
}
