// CUDA's runtime, over the emulated driver: what TensorFlow's own kernels register with and are launched by.
// names.ld has the functions that are the driver's under another name.
#include <map>
#include <mutex>
#include <utility>

#include "device.h"

namespace {

struct Binary {
  const void* image;
  std::map<int, CUmodule> modules;  // by device
};
struct Function {
  Binary* binary;
  const char* name;
};
std::mutex mutex;
thread_local int chosen = 0, last_error = 0;
std::map<const void*, Function>& functions = *new std::map<const void*, Function>;

void make_current() {  // the runtime follows a context that the driver was given
  CUcontext context;
  cuCtxGetCurrent(&context);
  if (context == nullptr) cuCtxSetCurrent(emulated::primary_context(chosen));
}

CUfunction function_of(const void* host) {
  make_current();
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = functions.find(host);
  if (found == functions.end()) emulated::fail("a kernel that was not registered is launched");
  const auto& [binary, name] = found->second;
  CUmodule& module = binary->modules[emulated::current_device()];
  CUfunction function = nullptr;
  if (module == nullptr) cuModuleLoadData(&module, binary->image);
  if (module == nullptr || cuModuleGetFunction(&function, module, name) != 0) emulated::fail("no PTX of %s", name);
  return function;
}

struct Configuration {
  emulated::Size grid, block;
  size_t shared;
  CUstream stream;
};
thread_local Configuration configuration;

}  // namespace

API void* __cudaRegisterFatBinary(void* image) { return new Binary{image, {}}; }
API void __cudaRegisterFunction(Binary* binary, const void* host, char*, const char* name) {
  const std::lock_guard<std::mutex> lock(mutex);
  functions[host] = {binary, name};
}
API unsigned __cudaPushCallConfiguration(emulated::Size grid, emulated::Size block, size_t shared,
                                         CUstream stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
API int __cudaPopCallConfiguration(emulated::Size* grid, emulated::Size* block, size_t* shared,
                                   CUstream* stream) {
  *grid = configuration.grid, *block = configuration.block;
  *shared = configuration.shared, *stream = configuration.stream;
  return 0;
}
API int cudaLaunchKernel(const void* host, emulated::Size grid, emulated::Size block, void** arguments,
                         size_t shared, CUstream stream) {
  const int error = cuLaunchKernel(function_of(host), grid.x, grid.y, grid.z, block.x, block.y, block.z,
                                   shared, stream, arguments, nullptr);
  if (error != 0) last_error = error;
  return error;
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
API int cudaPeekAtLastError() { return last_error; }
API int cudaGetLastError() { return std::exchange(last_error, 0); }

API int cudaGetDevice(int* device) {
  make_current();
  return cuCtxGetDevice(device);
}
SUCCEEDS(cudaSetDevice, (int device), cuCtxSetCurrent(emulated::primary_context(chosen = device)))
API const char* cudaGetErrorString(int error) {
  const char* text;
  cuGetErrorName(static_cast<CUresult>(error), &text);
  return text;
}
API int cudaMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, int, CUstream stream) {
  return cuMemcpyAsync(to, from, bytes, stream);
}
// The threads and the version, where they lie. CUB launches as many threads as that version's kernels want.
API int cudaFuncGetAttributes(char* attributes, const void* host) {
  std::memset(attributes, 0, 144);
  CUfunction function = function_of(host);
  cuFuncGetAttribute(reinterpret_cast<int*>(attributes + 32), CU_FUNC_ATTRIBUTE_PTX_VERSION, function);
  return cuFuncGetAttribute(reinterpret_cast<int*>(attributes + 24), CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
                            function);
}
// Of cudaDeviceProp, by the offsets of its second version, what Eigen reads.
API int cudaGetDeviceProperties_v2(char* properties, int device) {
  static const std::map<int, CUdevice_attribute> places = {
      {296, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK},
      {320, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK},
      {360, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR},
      {364, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR},
      {388, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT},
      {624, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR},
  };
  for (const auto& [offset, which] : places) {
    cuDeviceGetAttribute(reinterpret_cast<int*>(properties + offset), which, device);
  }
  return 0;
}
