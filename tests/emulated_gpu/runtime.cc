// CUDA's runtime, over the emulated driver: what TensorFlow's own kernels register with and are launched by.
// names.ld has the functions that are the driver's under another name.
#include <driver_types.h>

#include <map>
#include <mutex>
#include <tuple>
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
thread_local int last_error = 0;
std::map<const void*, Function>& functions = *new std::map<const void*, Function>;

CUfunction function_of(const void* host) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto& [binary, name] = functions.at(host);
  CUmodule& module = binary->modules[emulated::current_device()];
  CUfunction function = nullptr;
  if (module == nullptr) cuModuleLoadData(&module, binary->image);
  const bool is_found = module != nullptr && cuModuleGetFunction(&function, module, name) == CUDA_SUCCESS;
  if (!is_found) emulated::fail(std::string("no PTX of ") + name);
  return function;
}

thread_local std::tuple<dim3, dim3, size_t, CUstream> configuration;

}  // namespace

API void* __cudaRegisterFatBinary(void* image) { return new Binary{image, {}}; }
API void __cudaRegisterFunction(Binary* binary, const void* host, char*, const char* name) {
  const std::lock_guard<std::mutex> lock(mutex);
  functions[host] = {binary, name};
}
SUCCEEDS(__cudaPushCallConfiguration, (dim3 grid, dim3 block, size_t shared, CUstream stream),
         configuration = {grid, block, shared, stream})
SUCCEEDS(__cudaPopCallConfiguration, (dim3* grid, dim3* block, size_t* shared, CUstream* stream),
         std::tie(*grid, *block, *shared, *stream) = configuration)
API int cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared,
                         CUstream stream) {
  const int error = cuLaunchKernel(function_of(host), grid.x, grid.y, grid.z, block.x, block.y, block.z,
                                   shared, stream, arguments, nullptr);
  if (error != 0) last_error = error;
  return error;
}
API int cudaLaunchKernelExC(const cudaLaunchConfig_t* given, const void* host, void** arguments) {
  return cudaLaunchKernel(host, given->gridDim, given->blockDim, arguments, given->dynamicSmemBytes, given->stream);
}
SUCCEEDS(cudaGetFuncBySymbol, (CUfunction* function, const void* host), *function = function_of(host))
API int cudaPeekAtLastError() { return last_error; }
API int cudaGetLastError() { return std::exchange(last_error, 0); }

SUCCEEDS(cudaGetDevice, (int* device), *device = emulated::current_device())
SUCCEEDS(cudaSetDevice, (int device), cuCtxSetCurrent(emulated::primary_context(device)))
API const char* cudaGetErrorString(int error) {
  const char* text;
  cuGetErrorName(static_cast<CUresult>(error), &text);
  return text;
}
API int cudaMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, int, CUstream stream) {
  return cuMemcpyAsync(to, from, bytes, stream);
}
// CUB launches as many threads as kernels of the version want.
API int cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* host) {
  *attributes = {};
  CUfunction function = function_of(host);
  cuFuncGetAttribute(&attributes->ptxVersion, CU_FUNC_ATTRIBUTE_PTX_VERSION, function);
  return cuFuncGetAttribute(&attributes->maxThreadsPerBlock, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function);
}
// What Eigen reads.
API int cudaGetDeviceProperties_v2(cudaDeviceProp* properties, int device) {
  *properties = {};
  cuDeviceGetAttribute(&properties->maxThreadsPerBlock, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, device);
  cuDeviceGetAttribute(&properties->major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
  cuDeviceGetAttribute(&properties->minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  cuDeviceGetAttribute(&properties->multiProcessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
  cuDeviceGetAttribute(&properties->maxThreadsPerMultiProcessor, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
                       device);
  properties->sharedMemPerBlock = 48 << 10;
  return 0;
}
