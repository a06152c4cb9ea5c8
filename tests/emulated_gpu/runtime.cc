// CUDA's runtime, over the emulated driver: what TensorFlow's own kernels register with and are launched by.
#include <cstdio>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "device.h"

namespace {

struct Binary {
  const void* image;
  std::map<int, CUmodule> modules;  // by device
};
struct Function {
  Binary* binary;
  std::string name;
};
std::mutex mutex;
thread_local int chosen = 0, last_error = 0;

std::map<const void*, Function>& functions() {
  static auto* all = new std::map<const void*, Function>;
  return *all;
}

int remembered(int error) {
  if (error != 0) last_error = error;
  return error;
}

void make_current() {  // the runtime follows a context that the driver was given
  CUcontext context;
  cuCtxGetCurrent(&context);
  if (context == nullptr) cuCtxSetCurrent(emulated::primary_context(chosen));
}

CUfunction function_of(const void* host) {
  make_current();
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = functions().find(host);
  if (found == functions().end()) emulated::fail("a kernel that was not registered is launched");
  CUmodule& module = found->second.binary->modules[emulated::current_device()];
  if (module == nullptr) cuModuleLoadFatBinary(&module, found->second.binary->image);
  CUfunction function = nullptr;
  if (module != nullptr) cuModuleGetFunction(&function, module, found->second.name.c_str());
  if (function == nullptr) emulated::fail("there is no PTX of %s", found->second.name.c_str());
  return function;
}

struct Configuration {
  emulated::Size grid, block;
  size_t shared;
  CUstream stream;
};
thread_local std::vector<Configuration> configurations;

int attribute(CUdevice_attribute which, int device) {
  int value;
  cuDeviceGetAttribute(&value, which, device);
  return value;
}

}  // namespace

API void* __cudaRegisterFatBinary(void* image) { return new Binary{image, {}}; }
API void __cudaRegisterFatBinaryEnd(void*) {}
API void __cudaUnregisterFatBinary(void*) {}
API void __cudaRegisterVar() {}
API void __cudaRegisterManagedVar() {}
API char __cudaInitModule(void*) { return 1; }
API void __cudaRegisterFunction(void* binary, const void* host, char*, const char* name) {
  const std::lock_guard<std::mutex> lock(mutex);
  functions()[host] = {static_cast<Binary*>(binary), name};
}
API unsigned __cudaPushCallConfiguration(emulated::Size grid, emulated::Size block, size_t shared,
                                         CUstream stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
API int __cudaPopCallConfiguration(emulated::Size* grid, emulated::Size* block, size_t* shared,
                                   CUstream* stream) {
  const Configuration& last = configurations.back();
  *grid = last.grid, *block = last.block, *shared = last.shared, *stream = last.stream;
  configurations.pop_back();
  return 0;
}
API int cudaLaunchKernel(const void* host, emulated::Size grid, emulated::Size block, void** arguments,
                         size_t shared, CUstream stream) {
  return remembered(cuLaunchKernel(function_of(host), grid.x, grid.y, grid.z, block.x, block.y, block.z,
                                   shared, stream, arguments, nullptr));
}
struct LaunchConfiguration {  // cudaLaunchConfig_t
  emulated::Size grid, block;
  size_t shared;
  CUstream stream;
};
API int cudaLaunchKernelExC(const LaunchConfiguration* given, const void* host, void** arguments) {
  return cudaLaunchKernel(host, given->grid, given->block, arguments, given->shared, given->stream);
}
SUCCEEDS(cudaGetFuncBySymbol, (CUfunction* function, const void* host), *function = function_of(host))

API int cudaGetDeviceCount(int* count) { return cuDeviceGetCount(count); }
API int cudaGetDevice(int* device) {
  make_current();
  return cuCtxGetDevice(device);
}
SUCCEEDS(cudaSetDevice, (int device), cuCtxSetCurrent(emulated::primary_context(chosen = device)))
API int cudaDeviceGetAttribute(int* value, int which, int device) {
  return cuDeviceGetAttribute(value, static_cast<CUdevice_attribute>(which), device);
}
API int cudaDeviceGetPCIBusId(char* text, int length, int device) {
  return cuDeviceGetPCIBusId(text, length, device);
}
API int cudaDeviceSynchronize() { return cuCtxSynchronize(); }
API int cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return cuCtxGetStreamPriorityRange(least, greatest);
}
API int cudaDeviceCanAccessPeer(int* can, int one, int other) { return cuDeviceCanAccessPeer(can, one, other); }
API int cudaDeviceEnablePeerAccess(int, unsigned) { return 0; }
// Of cudaDeviceProp, by the offsets of its second version, what TensorFlow reads.
API int cudaGetDeviceProperties_v2(char* properties, int device) {
  std::memset(properties, 0, 1032);
  cuDeviceGetName(properties, 256, device);
  cuDeviceTotalMem(reinterpret_cast<size_t*>(properties + 288), device);
  const std::map<int, CUdevice_attribute> places = {
      {296, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK},
      {304, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK},
      {308, CU_DEVICE_ATTRIBUTE_WARP_SIZE},
      {320, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK},
      {324, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X},
      {328, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y},
      {332, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z},
      {336, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X},
      {340, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y},
      {344, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z},
      {348, CU_DEVICE_ATTRIBUTE_CLOCK_RATE},
      {360, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR},
      {364, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR},
      {388, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT},
      {608, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE},
      {612, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH},
      {624, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR},
  };
  for (const auto& [offset, which] : places) {
    const int value = attribute(which, device);
    std::memcpy(properties + offset, &value, sizeof value);
  }
  return 0;
}
API int cudaRuntimeGetVersion(int* version) { return cuDriverGetVersion(version); }
API int cudaDriverGetVersion(int* version) { return cuDriverGetVersion(version); }
API int cudaGetLastError() { return std::exchange(last_error, 0); }
API int cudaPeekAtLastError() { return last_error; }
API const char* cudaGetErrorString(int error) {
  const char* text;
  cuGetErrorName(static_cast<CUresult>(error), &text);
  return text;
}
API const char* cudaGetErrorName(int error) { return cudaGetErrorString(error); }

API int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, CUstream stream) {
  return remembered(cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(to), reinterpret_cast<CUdeviceptr>(from),
                                  bytes, stream));
}
API int cudaMemsetAsync(void* address, int value, size_t bytes, CUstream stream) {
  return remembered(cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(address), value, bytes, stream));
}
API int cudaStreamSynchronize(CUstream stream) { return cuStreamSynchronize(stream); }
// The threads and the version, where they lie. CUB launches as many threads as that version's kernels want.
API int cudaFuncGetAttributes(char* attributes, const void* host) {
  std::memset(attributes, 0, 144);
  CUfunction function = function_of(host);
  cuFuncGetAttribute(reinterpret_cast<int*>(attributes + 32), CU_FUNC_ATTRIBUTE_PTX_VERSION, function);
  return cuFuncGetAttribute(reinterpret_cast<int*>(attributes + 24), CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
                            function);
}
API int cudaFuncSetAttribute(const void* host, int which, int value) {
  return cuFuncSetAttribute(function_of(host), static_cast<CUfunction_attribute>(which), value);
}
API int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int threads, size_t,
                                                               unsigned) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, nullptr, threads, 0);
}
