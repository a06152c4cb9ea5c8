// Devices, contexts, memory and errors of the emulated driver. The device's memory is the host's.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>

#include "device.h"

namespace emulated {

std::map<std::string, std::string> script();  // of nvml.cc

namespace {

constexpr size_t kTotalMemory = 600 << 20;
std::mutex mutex;
thread_local CUcontext current = nullptr;

// NVML's names of the cards that CUDA_VISIBLE_DEVICES names by number, in its order. A slice is one of card 0.
const std::vector<std::string>& visible_cards() {
  static const std::vector<std::string> cards = [] {
    const char* const listed = std::getenv("CUDA_VISIBLE_DEVICES");
    std::istringstream names(listed == nullptr ? "0,1,2,3" : listed);
    std::vector<std::string> found;
    for (std::string name; std::getline(names, name, ',');) {
      const std::string card = "gpu" + (name.rfind("MIG-", 0) == 0 ? "0" : name);
      if (script().count(card + ".uuid") == 0) break;  // as NVIDIA's: those behind a wrong one are hidden too
      found.push_back(card);
    }
    return found;
  }();
  return cards;
}

// What NVML's script says of a device.
std::string said(CUdevice device, const std::string& query) {
  static const auto lines = script();
  return lines.at(visible_cards()[device] + "." + query);
}

struct Allocation {
  size_t bytes;
  int device;    // -1: the host
  char* mapped;  // whole pages, and one before and behind that nobody may touch
  size_t mapped_bytes;
};
std::map<CUdeviceptr, Allocation>& allocations = *new std::map<CUdeviceptr, Allocation>;

// New memory holds NaNs, and ends at a page's end, but for what CUDA's alignment leaves before that.
CUresult allocate(CUdeviceptr* address, size_t bytes, int device) {
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard<std::mutex> lock(mutex);
  if (device >= 0 && primary_context(device)->used_bytes + bytes > kTotalMemory) return CUDA_ERROR_OUT_OF_MEMORY;
  constexpr size_t kPage = 4096;
  const size_t inner = (bytes + kPage - 1) / kPage * kPage, outer = inner + 2 * kPage;
  char* const mapped = static_cast<char*>(mmap(nullptr, outer, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (mapped == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  mprotect(mapped + kPage, inner, PROT_READ | PROT_WRITE);
  std::memset(mapped + kPage, 0xff, inner);
  *address = reinterpret_cast<CUdeviceptr>(mapped) + kPage + inner - (bytes + 255) / 256 * 256;
  allocations[*address] = {bytes, device, mapped, outer};
  if (device >= 0) primary_context(device)->used_bytes += bytes;
  note("allocate " + std::to_string(bytes) + " on " + std::to_string(device));
  return CUDA_SUCCESS;
}

CUresult release(CUdeviceptr address) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = allocations.find(address);
  if (found == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
  const auto [bytes, device, mapped, mapped_bytes] = found->second;
  if (device >= 0) primary_context(device)->used_bytes -= bytes;
  munmap(mapped, mapped_bytes);
  allocations.erase(found);
  return CUDA_SUCCESS;
}

// The device of an address, -1 for the host's memory, or nothing if the driver did not allocate it.
std::optional<int> device_of(CUdeviceptr address) {
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = allocations.upper_bound(address);
  if (found == allocations.begin()) return {};
  --found;
  return address < found->first + found->second.bytes ? std::optional(found->second.device) : std::nullopt;
}

template <class Value>
CUresult fill(CUdeviceptr address, Value value, size_t count, CUstream stream) {
  note("set " + std::to_string(count * sizeof value));
  enqueue(stream, [=] { std::fill_n(reinterpret_cast<Value*>(address), count, value); });
  return CUDA_SUCCESS;
}

}  // namespace

std::string setting(const char* name, const char* otherwise) {
  const char* const value = std::getenv((std::string("EMULATED_GPU_") + name).c_str());
  return value == nullptr ? otherwise : value;
}

void fail(const std::string& message) {
  std::fprintf(stderr, "emulated GPU: %s\n", message.c_str());
  std::abort();
}

void note(const std::string& line) {
  static std::FILE* const file = std::fopen(setting("TRACE", "/dev/null").c_str(), "a");
  std::fprintf(file, "%s\n", line.c_str());
  std::fflush(file);
}

int current_device() { return current == nullptr ? 0 : current->device; }

CUcontext primary_context(int device) {
  static CUctx_st contexts[16];
  contexts[device].device = device;
  return &contexts[device];
}

Work copying(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return [=] { std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes); };
}

void adopt(CUdeviceptr address, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  allocations[address] = {bytes, current_device(), nullptr, 0};
}

}  // namespace emulated

using namespace emulated;

API CUresult nothing() { return CUDA_SUCCESS; }
API CUresult cuInit(unsigned) { return visible_cards().empty() ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS; }
SUCCEEDS(cuDriverGetVersion, (int* version), *version = 12090)
SUCCEEDS(cuDeviceGetCount, (int* count), *count = static_cast<int>(visible_cards().size()))
SUCCEEDS(cuDeviceGet, (CUdevice* device, int index), *device = index)
SUCCEEDS(cuDeviceGetName, (char* name, int length, CUdevice device),
         std::snprintf(name, length, "%s", said(device, "name").c_str()))
SUCCEEDS(cuDeviceGetPCIBusId, (char* text, int length, CUdevice device),
         std::snprintf(text, length, "%s", said(device, "bus").c_str() + 4))  // four digits of the domain
SUCCEEDS(cuDeviceTotalMem, (size_t* bytes, CUdevice), *bytes = kTotalMemory)
API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  const std::string capability = said(device, "compute_capability");
  const std::map<CUdevice_attribute, int> values = {
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, std::stoi(capability)},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, capability.back() - '0'},
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 << 10},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 96 << 10},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 96 << 10},
      {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
      {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1400000},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 80},
      {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 900000},
      {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 4096},
      {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 6 << 20},
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
      {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
      {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
  };
  const auto found = values.find(attribute);
  *value = found == values.end() ? 0 : found->second;
  return CUDA_SUCCESS;
}
SUCCEEDS(cuDeviceCanAccessPeer, (int* can, CUdevice, CUdevice), *can = 1)
SUCCEEDS(cuDeviceGetDefaultMemPool, (CUmemoryPool* pool, CUdevice device),
         *pool = reinterpret_cast<CUmemoryPool>(1 + static_cast<intptr_t>(device)))
SUCCEEDS(cuMemPoolGetAttribute, (CUmemoryPool, CUmemPool_attribute, void* value),
         *static_cast<uint64_t*>(value) = 0)

SUCCEEDS(cuDevicePrimaryCtxRetain, (CUcontext* context, CUdevice device), *context = primary_context(device))
API CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return CUDA_SUCCESS;
}
SUCCEEDS(cuCtxSetCurrent, (CUcontext context), current = context)
SUCCEEDS(cuCtxGetCurrent, (CUcontext* context), *context = current)
API CUresult cuCtxGetDevice(CUdevice* device) {
  *device = current_device();
  return current == nullptr ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}
SUCCEEDS(cuCtxGetStreamPriorityRange, (int* least, int* greatest), *least = *greatest = 0)

API CUresult cuGetErrorName(CUresult error, const char** name) {
  thread_local char text[40];
  std::snprintf(text, sizeof text, "CUDA error %d", static_cast<int>(error));
  *name = text;
  return CUDA_SUCCESS;
}

API CUresult cuMemGetInfo(size_t* free, size_t* total) {
  *total = kTotalMemory;
  *free = *total - primary_context(current_device())->used_bytes;
  return CUDA_SUCCESS;
}
API CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) {
  return allocate(address, bytes, current_device());
}
API CUresult cuMemFree(CUdeviceptr address) {
  cuCtxSynchronize();
  return release(address);
}
SUCCEEDS(cuMemFreeAsync, (CUdeviceptr address, CUstream stream), enqueue(stream, [=] { release(address); }))
API CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned) {
  return allocate(reinterpret_cast<CUdeviceptr*>(address), bytes, -1);
}
API CUresult cuMemFreeHost(void* address) { return release(reinterpret_cast<CUdeviceptr>(address)); }
API CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr address) {
  const std::optional<int> device = device_of(address);
  if (!device || attribute != CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) return CUDA_ERROR_INVALID_VALUE;
  *static_cast<int*>(value) = *device;
  return CUDA_SUCCESS;
}

// Memory that the driver did not allocate is copied before a call for it returns, as CUDA does.
API CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  const std::optional<int> to_device = device_of(to), from_device = device_of(from);
  note("copy " + std::to_string(bytes) + " from " + std::to_string(from_device.value_or(-1)) + " to " +
       std::to_string(to_device.value_or(-1)));
  if (!from_device && to_device) {
    auto staged = std::make_shared<std::string>(reinterpret_cast<const char*>(from), bytes);
    enqueue(stream, [=] { copying(to, reinterpret_cast<CUdeviceptr>(staged->data()), bytes)(); });
    return CUDA_SUCCESS;
  }
  enqueue(stream, copying(to, from, bytes));
  if (!to_device) synchronize(stream);
  return CUDA_SUCCESS;
}
API CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
  return cuMemcpyAsync(to, from, bytes, stream);
}
API CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t count, CUstream stream) {
  return fill<uint8_t>(address, value, count, stream);
}
API CUresult cuMemsetD32Async(CUdeviceptr address, unsigned value, size_t count, CUstream stream) {
  return fill<uint32_t>(address, value, count, stream);
}
// NVRTC asks for it, and goes without where there is none.
API CUresult cuGetExportTable(const void**, const CUuuid*) { return CUDA_ERROR_NOT_FOUND; }
