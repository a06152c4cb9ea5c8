// Devices, contexts, memory and errors of the emulated driver. The device's memory is the host's.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sstream>
#include <string>

#include "streams.h"

namespace emulated {
namespace {

constexpr int kMaxDevices = 16;
std::mutex mutex;
thread_local CUcontext current = nullptr;

int number(const char* name, const char* otherwise) { return std::atoi(setting(name, otherwise).c_str()); }
size_t total_memory() { return static_cast<size_t>(number("MEMORY_MB", "600")) << 20; }

// The same as in the script of tests/emulated_gpu/nvml.py.
std::string uuid_of(int card) {
  char text[48];
  std::snprintf(text, sizeof text, "GPU-%df2c9b1e-0000-4000-8000-00000000000%d", card, card);
  return text;
}

// The cards that CUDA_VISIBLE_DEVICES leaves, in its order: numbers, or the beginnings of UUIDs.
const std::vector<int>& visible_cards() {
  static const std::vector<int> cards = [] {
    std::vector<int> found;
    const int count = number("DEVICES", "1");
    const char* listed = std::getenv("CUDA_VISIBLE_DEVICES");
    for (int card = 0; listed == nullptr && card < count; ++card) found.push_back(card);
    std::istringstream names(listed == nullptr ? "" : listed);
    for (std::string name; std::getline(names, name, ',');) {
      int card = name.rfind("MIG-", 0) == 0 ? 0 : -1;
      for (int own = 0; own < count; ++own) {
        if (name == std::to_string(own) || (name.size() > 4 && uuid_of(own).rfind(name, 0) == 0)) card = own;
      }
      if (card < 0) break;  // as NVIDIA's: those behind a wrong one are hidden too
      found.push_back(card);
    }
    return found;
  }();
  return cards;
}

struct Allocation {
  size_t bytes;
  int device;  // -1: the host
  void* mapped;
  size_t mapped_bytes;
};
std::map<uintptr_t, Allocation>& allocations() {
  static auto* all = new std::map<uintptr_t, Allocation>;
  return *all;
}
size_t used[kMaxDevices];

// The allocation around an address, or null. Call with the mutex held.
const std::pair<const uintptr_t, Allocation>* around(uintptr_t address) {
  auto found = allocations().upper_bound(address);
  if (found == allocations().begin()) return nullptr;
  --found;
  return address < found->first + found->second.bytes ? &*found : nullptr;
}

// New memory holds NaNs. With EMULATED_GPU_GUARD it ends at a page that nobody may touch, but for what CUDA's
// alignment leaves before that.
CUresult allocate(void** address, size_t bytes, int device) {
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard<std::mutex> lock(mutex);
  if (device >= 0 && used[device] + bytes > total_memory()) return CUDA_ERROR_OUT_OF_MEMORY;
  static const size_t guard = number("GUARD", "0") ? 4096 : 0;
  const size_t pages = (bytes + 4095) / 4096 * 4096;
  void* const mapped = mmap(nullptr, pages + 2 * guard, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  char* const begin = static_cast<char*>(mapped) + guard;
  std::memset(begin, 0xff, pages);
  if (guard) mprotect(mapped, guard, PROT_NONE), mprotect(begin + pages, guard, PROT_NONE);
  *address = guard ? begin + pages - (bytes + 255) / 256 * 256 : begin;
  allocations()[reinterpret_cast<uintptr_t>(*address)] = {bytes, device, mapped, pages + 2 * guard};
  if (device >= 0) used[device] += bytes;
  note("allocate %zu on %d", bytes, device);
  return CUDA_SUCCESS;
}

CUresult release(void* address) {
  if (address == nullptr) return CUDA_SUCCESS;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = allocations().find(reinterpret_cast<uintptr_t>(address));
  if (found == allocations().end()) return CUDA_ERROR_INVALID_VALUE;
  if (found->second.device >= 0) used[found->second.device] -= found->second.bytes;
  munmap(found->second.mapped, found->second.mapped_bytes);
  allocations().erase(found);
  return CUDA_SUCCESS;
}

// Memory that the driver did not allocate is copied before a call for it returns, as CUDA does.
CUresult copy(void* to, const void* from, size_t bytes, CUstream stream) {
  int to_device = -1, from_device = -1;
  const bool to_known = is_on_device(to, &to_device), from_known = is_on_device(from, &from_device);
  note("copy %zu from %d to %d", bytes, from_device, to_device);
  if (!from_known && to_known) {
    auto staged = std::make_shared<std::string>(static_cast<const char*>(from), bytes);
    enqueue(stream, [=] { std::memcpy(to, staged->data(), bytes); });
    return CUDA_SUCCESS;
  }
  enqueue(stream, copying(to, from, bytes));
  if (!to_known) synchronize(stream);
  return CUDA_SUCCESS;
}

template <class Value>
CUresult fill(CUdeviceptr address, Value value, size_t count, CUstream stream) {
  note("set %zu", count * sizeof value);
  enqueue(stream, [=] { std::fill_n(reinterpret_cast<Value*>(address), count, value); });
  return CUDA_SUCCESS;
}

void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

}  // namespace

std::string setting(const char* name, const char* otherwise) {
  const char* const value = std::getenv((std::string("EMULATED_GPU_") + name).c_str());
  return value == nullptr ? otherwise : value;
}

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fprintf(stderr, "emulated GPU: ");
  std::vfprintf(stderr, format, arguments);
  std::fprintf(stderr, "\n");
  std::abort();
}

void note(const char* format, ...) {
  static std::FILE* const file = [] {
    const std::string path = setting("TRACE", "");
    return path.empty() ? nullptr : std::fopen(path.c_str(), "a");
  }();
  if (file == nullptr) return;
  va_list arguments;
  va_start(arguments, format);
  char line[600];
  std::vsnprintf(line, sizeof line, format, arguments);
  std::fprintf(file, "%s\n", line);
  std::fflush(file);
}

int current_device() { return current == nullptr ? 0 : current->device; }

CUcontext primary_context(int device) {
  static CUctx_st contexts[kMaxDevices];
  contexts[device].device = device;
  return &contexts[device];
}

Work copying(void* to, const void* from, size_t bytes) {
  return [=] { std::memmove(to, from, bytes); };
}

void adopt(void* address, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  allocations()[reinterpret_cast<uintptr_t>(address)] = {bytes, current_device(), nullptr, 0};
}

bool is_on_device(const void* address, int* device) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto* const found = around(reinterpret_cast<uintptr_t>(address));
  if (found != nullptr) *device = found->second.device;
  return found != nullptr;
}

}  // namespace emulated

using namespace emulated;

API CUresult cuInit(unsigned) { return visible_cards().empty() ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS; }
SUCCEEDS(cuDriverGetVersion, (int* version), *version = 12090)
SUCCEEDS(cuDeviceGetCount, (int* count), *count = static_cast<int>(visible_cards().size()))
API CUresult cuDeviceGet(CUdevice* device, int index) {
  *device = index;
  return index < static_cast<int>(visible_cards().size()) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
SUCCEEDS(cuDeviceGetName, (char* name, int length, CUdevice), std::snprintf(name, length, "NVIDIA Fake 100"))
API CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  std::string digits = uuid_of(visible_cards()[device]).substr(4);
  digits.erase(std::remove(digits.begin(), digits.end(), '-'), digits.end());
  for (int i = 0; i < 16; ++i) uuid->bytes[i] = static_cast<char>(std::stoi(digits.substr(2 * i, 2), nullptr, 16));
  return CUDA_SUCCESS;
}
SUCCEEDS(cuDeviceGetPCIBusId, (char* text, int length, CUdevice device),
         std::snprintf(text, length, "0000:%02X:00.0", 0x17 + visible_cards()[device]))
SUCCEEDS(cuDeviceTotalMem, (size_t* bytes, CUdevice), *bytes = total_memory())
API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  // A card's own compute capability, in tens, or that of all.
  const std::string own = "CC_" + std::to_string(visible_cards()[device]);
  const int capability = number(own.c_str(), setting("CC", "70").c_str());
  static const std::map<CUdevice_attribute, int> others = {
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
      {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 << 10},
      {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
      {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1400000},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 80},
      {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 900000},
      {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 4096},
      {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 6 << 20},
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
      {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
      {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, 0},
  };
  const auto found = others.find(attribute);
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? capability / 10
           : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? capability % 10
           : found == others.end()                                     ? 0
                                                                       : found->second;
  return CUDA_SUCCESS;
}
SUCCEEDS(cuDeviceCanAccessPeer, (int* can, CUdevice, CUdevice), *can = 1)
SUCCEEDS(cuDeviceGetDefaultMemPool, (CUmemoryPool* pool, CUdevice device),
         *pool = reinterpret_cast<CUmemoryPool>(1 + static_cast<intptr_t>(device)))
API CUresult cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* properties) {
  return cuDeviceGetDefaultMemPool(pool, properties->location.id);
}

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
API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return CUDA_SUCCESS;
}

API CUresult cuGetErrorName(CUresult error, const char** name) {
  thread_local char text[40];
  std::snprintf(text, sizeof text, "CUDA error %d", static_cast<int>(error));
  *name = text;
  return CUDA_SUCCESS;
}
API CUresult cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }

API CUresult cuMemGetInfo(size_t* free, size_t* total) {
  *total = total_memory();
  *free = *total - used[current_device()];
  return CUDA_SUCCESS;
}
API CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) {
  return allocate(reinterpret_cast<void**>(address), bytes, current_device());
}
API CUresult cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, CUmemoryPool, CUstream) {
  return cuMemAlloc(address, bytes);
}
API CUresult cuMemFree(CUdeviceptr address) {
  synchronize_device();
  return release(pointer(address));
}
API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  enqueue(stream, [=] { release(pointer(address)); });
  return CUDA_SUCCESS;
}
API CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned) { return allocate(address, bytes, -1); }
API CUresult cuMemFreeHost(void* address) { return release(address); }
SUCCEEDS(cuMemHostGetDevicePointer, (CUdeviceptr* device, void* host, unsigned),
         *device = reinterpret_cast<CUdeviceptr>(host))
API CUresult cuMemGetAddressRange(CUdeviceptr* begin, size_t* bytes, CUdeviceptr address) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto* const found = around(address);
  if (found == nullptr) return CUDA_ERROR_NOT_FOUND;
  if (begin != nullptr) *begin = found->first;
  if (bytes != nullptr) *bytes = found->second.bytes;
  return CUDA_SUCCESS;
}
API CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr address) {
  int device;
  if (!is_on_device(pointer(address), &device)) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *static_cast<unsigned*>(value) = device < 0 ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *static_cast<int*>(value) = device; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: *static_cast<unsigned*>(value) = 0; return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

API CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy(pointer(to), pointer(from), bytes, stream);
}
API CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes,
                               CUstream stream) {
  return copy(pointer(to), pointer(from), bytes, stream);
}
API CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  return copy(pointer(to), from, bytes, stream);
}
API CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy(to, pointer(from), bytes, stream);
}
API CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return copy(pointer(to), pointer(from), bytes, stream);
}
API CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
  copy(pointer(to), from, bytes, nullptr);
  return cuStreamSynchronize(nullptr);
}
API CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
  copy(to, pointer(from), bytes, nullptr);
  return cuStreamSynchronize(nullptr);
}
API CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return copy(pointer(to), pointer(from), bytes, nullptr);
}
API CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t count, CUstream stream) {
  return fill<uint8_t>(address, value, count, stream);
}
API CUresult cuMemsetD32Async(CUdeviceptr address, unsigned value, size_t count, CUstream stream) {
  return fill<uint32_t>(address, value, count, stream);
}
API CUresult cuMemsetD8(CUdeviceptr address, unsigned char value, size_t count) {
  return fill<uint8_t>(address, value, count, nullptr);
}
API CUresult cuMemsetD32(CUdeviceptr address, unsigned value, size_t count) {
  return fill<uint32_t>(address, value, count, nullptr);
}
// NVRTC asks for it, and goes without where there is none.
API CUresult cuGetExportTable(const void**, const CUuuid*) { return CUDA_ERROR_NOT_FOUND; }
