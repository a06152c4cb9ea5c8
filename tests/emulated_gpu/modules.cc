// Modules: PTX from XLA, from NVRTC, or out of TensorFlow's own binaries, which ptx.py and GCC make machine code
// of the host from. What was made is kept, by its text.
#include <dlfcn.h>
#include <fatbinary_section.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>

#include "device.h"

API int LZ4_decompress_safe_partial(const char* from, char* to, int bytes, int wanted, int room);

struct CUmod_st {
  std::string ptx;
  bool is_whole;  // translated at once
  std::map<std::string, void*> libraries;  // by kernel
  std::map<std::string, CUfunction> functions;
};
struct CUfunc_st {
  const Kernel* kernel;
  std::string name;
  CUmodule module;
  uint32_t max_dynamic_shared = 48 << 10;
};

namespace emulated {
namespace {

std::mutex mutex;

// Opens the library of a kernel, or of `all` of a module, which the cache has or ptx.py and GCC make. Each module
// gets a copy, since its variables are its own. Call with the mutex held.
void* opened(const std::string& ptx, const std::string& entry) {
  static int count = 0;
  const std::string folder = setting("FOLDER", ""), key = ptx + "\n" + entry + "\n" + setting("FLAGS", "");
  const std::string library = folder + "/kernels/" + std::to_string(std::hash<std::string>()(key)) + ".so";
  const std::string own = library + "." + std::to_string(getpid()) + "." + std::to_string(++count);
  if (!std::filesystem::exists(library)) {
    std::ofstream(own + ".ptx") << ptx;
    const std::string command = folder + "/translate " + own + " '" + entry + "'";
    if (std::system(command.c_str()) != 0) fail("cannot translate " + entry + " of " + own + ".ptx");
    std::filesystem::rename(own + ".so", library);
    std::filesystem::remove(own + ".ptx");
  }
  std::filesystem::copy_file(library, own);
  void* const handle = dlopen(own.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) fail(dlerror());
  std::filesystem::remove(own);
  return handle;
}

// Call with the mutex held.
void* library_of(CUmodule module, const std::string& kernel) {
  const std::string entry = module->is_whole ? "all" : kernel;
  void*& library = module->libraries[entry];
  if (library == nullptr) library = opened(module->ptx, entry);
  return library;
}

// What NVCC's binaries begin with, and each of their entries. The layout is known from what others found out.
struct Binary {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;
};
struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t packed_bytes, unknown[9];
  uint64_t text_bytes;
};

// A text, or the last PTX in a binary, which is packed.
std::string ptx_of(const void* image) {
  const auto* const wrapper = static_cast<const __fatBinC_Wrapper_t*>(image);
  const auto* const binary = static_cast<const Binary*>(wrapper->magic == FATBINC_MAGIC ? wrapper->data : image);
  if (binary->magic != 0xba55ed50) return static_cast<const char*>(image);
  std::string text;
  const char* place = reinterpret_cast<const char*>(binary) + binary->header_bytes;
  for (const char* const end = place + binary->bytes; place < end;) {
    const Entry& entry = *reinterpret_cast<const Entry*>(place);
    place += entry.header_bytes;
    if (entry.kind == 1) {  // PTX
      text.resize(entry.text_bytes);
      LZ4_decompress_safe_partial(place, text.data(), entry.packed_bytes, text.size(), text.size());
    }
    place += entry.bytes;
  }
  return text.substr(0, text.find('\0'));
}

// The compute capability that it was compiled for: 90 of `.target sm_90`.
int target_of(const std::string& ptx) { return std::atoi(&ptx[ptx.find(".target sm_") + 11]); }

}  // namespace

CUresult launch(const CUDA_KERNEL_NODE_PARAMS& given, Work* work) {
  const CUfunction function = given.func;
  const Kernel& kernel = *function->kernel;
  const Size grid = {given.gridDimX, given.gridDimY, given.gridDimZ};
  const Size block = {given.blockDimX, given.blockDimY, given.blockDimZ};
  const uint32_t shared = given.sharedMemBytes;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z, blocks = uint64_t{grid.x} * grid.y * grid.z;
  const bool fits = threads > 0 && threads <= kernel.max_threads && threads <= 1024 && blocks > 0 &&
                    grid.y < 65536 && grid.z < 65536 && shared <= function->max_dynamic_shared;
  if (!fits || (given.kernelParams == nullptr && kernel.num_params > 0)) return CUDA_ERROR_INVALID_VALUE;
  std::string params(kernel.params_bytes, 0);
  for (uint32_t i = 0; i < kernel.num_params; ++i) {
    std::memcpy(&params[kernel.params[i][0]], given.kernelParams[i], kernel.params[i][1]);
  }
  *work = [=] {
    note("run " + function->name);
    run_kernel(*function->kernel, function->name, params.data(), grid, block, shared);
  };
  return CUDA_SUCCESS;
}

}  // namespace emulated

using namespace emulated;

API CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  std::string ptx = ptx_of(image);
  const std::string refused = setting("REFUSES", "");
  if (ptx.find(".version") == std::string::npos) return CUDA_ERROR_INVALID_IMAGE;
  if (!refused.empty() && ptx.find(refused) != std::string::npos) return CUDA_ERROR_INVALID_IMAGE;
  // XLA's programs use all that they have; TensorFlow's own binaries and NVRTC's, some.
  const bool is_whole = ptx.find("Generated by LLVM") != std::string::npos;
  *module = new CUmod_st{std::move(ptx), is_whole, {}, {}};
  return CUDA_SUCCESS;
}
API CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  const std::lock_guard<std::mutex> lock(mutex);
  CUfunction& found = module->functions[name];
  if (found == nullptr) {
    if (module->ptx.find(std::string(" ") + name + "(") == std::string::npos) return CUDA_ERROR_NOT_FOUND;
    const void* const kernel = dlsym(library_of(module, name), (std::string("kernel_") + name).c_str());
    found = new CUfunc_st{static_cast<const Kernel*>(kernel), name, module};
  }
  *function = found;
  return CUDA_SUCCESS;
}
API CUresult cuModuleGetGlobal(CUdeviceptr* address, size_t* bytes, CUmodule module, const char* name) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!module->is_whole) fail(std::string("no kernel has the variable ") + name);
  void* const library = library_of(module, "");
  void* const found = dlsym(library, (std::string("G_") + name).c_str());
  if (found == nullptr) return CUDA_ERROR_NOT_FOUND;
  const uint64_t size = *static_cast<uint64_t*>(dlsym(library, (std::string("S_") + name).c_str()));
  const auto begin = reinterpret_cast<CUdeviceptr>(found);
  adopt(begin, size);
  if (address != nullptr) *address = begin;
  if (bytes != nullptr) *bytes = size;
  return CUDA_SUCCESS;
}
API CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? function->kernel->max_threads
           : attribute == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES   ? function->kernel->shared_bytes
           : attribute == CU_FUNC_ATTRIBUTE_NUM_REGS            ? 32
           : attribute == CU_FUNC_ATTRIBUTE_PTX_VERSION         ? target_of(function->module->ptx)
                                                                : 0;
  return CUDA_SUCCESS;
}
SUCCEEDS(cuFuncSetAttribute, (CUfunction function, CUfunction_attribute attribute, int value),
         if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) function->max_dynamic_shared = value)
SUCCEEDS(cuOccupancyMaxActiveBlocksPerMultiprocessor, (int* blocks, CUfunction, int threads, size_t),
         *blocks = std::min(32, 2048 / std::max(1, threads)))
API CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads_x,
                            unsigned threads_y, unsigned threads_z, unsigned shared, CUstream stream,
                            void** params, void**) {
  Work work;
  const CUresult status = launch({function, x, y, z, threads_x, threads_y, threads_z, shared, params}, &work);
  if (status == CUDA_SUCCESS) enqueue(stream, std::move(work));
  return status;
}
