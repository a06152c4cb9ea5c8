// A libnvidia-ml.so.1 that answers NVML's C API from a script, so that nvidia-ml-py itself can be
// tested on any machine. library.py builds it and documents the script; script.h reads it.
//
// Signatures and layouts are those of NVIDIA's nvml.h. Compiled with that header before it
// (g++ -include nvml.h), the declarations here stand back and the functions are checked against it.

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>

#include "script.h"

#ifndef __nvml_nvml_h__
enum nvmlReturn_t : int {
  NVML_SUCCESS = 0,
  NVML_ERROR_UNINITIALIZED = 1,
  NVML_ERROR_INVALID_ARGUMENT = 2,
  NVML_ERROR_NOT_SUPPORTED = 3,
  NVML_ERROR_NOT_FOUND = 6,
  NVML_ERROR_INSUFFICIENT_SIZE = 7,
  NVML_ERROR_DRIVER_NOT_LOADED = 9,
};
typedef struct nvmlDevice_st* nvmlDevice_t;
typedef unsigned nvmlClockType_t, nvmlTemperatureSensors_t;
struct nvmlPciInfo_t {
  char busIdLegacy[16];
  unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
  char busId[32];
};
struct nvmlMemory_t {
  unsigned long long total, free, used;
};
struct nvmlUtilization_t {
  unsigned gpu, memory;
};
struct nvmlProcessInfo_t {
  unsigned pid;
  unsigned long long usedGpuMemory;
  unsigned gpuInstanceId, computeInstanceId;
};
extern "C" const char* nvmlErrorString(nvmlReturn_t);
#endif

struct nvmlDevice_st {
  int gpu, slice;  // slice -1: the whole GPU
};

namespace {

constexpr int kMaxGpus = 16, kMaxSlices = 8;
int initialized = 0;

nvmlDevice_t handle(int gpu, int slice = -1) {
  static nvmlDevice_st devices[kMaxGpus][kMaxSlices + 1];
  nvmlDevice_t device = &devices[gpu][slice + 1];
  *device = {gpu, slice};
  return device;
}

std::string name_of(nvmlDevice_t device) {
  std::string gpu = "gpu" + std::to_string(device->gpu);
  return device->slice < 0 ? gpu : gpu + ".mig" + std::to_string(device->slice);
}

// The answer to a query: the subject's own, or what stands for all its queries under `*`.
nvmlReturn_t ask(const char* function, const std::string& subject, const std::string& field,
                 Answer* answer) {
  script::log(function, subject);
  if (!initialized) return NVML_ERROR_UNINITIALIZED;
  for (const std::string& key : {subject + ".*", subject + "." + field}) {
    if (script::answer(key, answer)) return static_cast<nvmlReturn_t>(answer->error);
  }
  return NVML_ERROR_NOT_SUPPORTED;
}

template <typename Number>
nvmlReturn_t number(const char* function, nvmlDevice_t device, const std::string& field,
                    Number* value) {
  Answer answer;
  const nvmlReturn_t code = ask(function, name_of(device), field, &answer);
  if (code == NVML_SUCCESS) *value = static_cast<Number>(answer.number());
  return code;
}

nvmlReturn_t text(const char* function, const std::string& subject, const std::string& field,
                  char* buffer, unsigned length) {
  Answer answer;
  const nvmlReturn_t code = ask(function, subject, field, &answer);
  if (code != NVML_SUCCESS) return code;
  if (answer.text.size() >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
  std::strcpy(buffer, answer.text.c_str());
  return code;
}

nvmlReturn_t pci(const char* function, const std::string& subject, const std::string& field,
                 nvmlPciInfo_t* info) {
  Answer answer;
  const nvmlReturn_t code = ask(function, subject, field, &answer);
  if (code != NVML_SUCCESS) return code;
  *info = {};
  std::snprintf(info->busId, sizeof info->busId, "%s", answer.text.c_str());
  std::snprintf(info->busIdLegacy, sizeof info->busIdLegacy, "%s", answer.text.c_str() + 4);
  std::sscanf(info->busId, "%x:%x:%x", &info->domain, &info->bus, &info->device);
  return code;
}

// Looks a device up by one of its texts, slices included.
nvmlReturn_t find(const char* function, const std::string& field, const std::string& wanted,
                  nvmlDevice_t* device) {
  script::log(function, "system");
  if (!initialized) return NVML_ERROR_UNINITIALIZED;
  Answer answer;
  for (int gpu = 0; gpu < kMaxGpus; ++gpu) {
    for (int slice = -1; slice < kMaxSlices; ++slice) {
      nvmlDevice_t candidate = handle(gpu, slice);
      if (script::answer(name_of(candidate) + "." + field, &answer) && answer.text == wanted) {
        *device = candidate;
        return NVML_SUCCESS;
      }
    }
  }
  return NVML_ERROR_NOT_FOUND;
}

unsigned count_gpus() {
  unsigned count = 0;
  while (script::has("gpu" + std::to_string(count) + ".uuid")) ++count;
  return count;
}

}  // namespace

#define NUMBER(function, field, type)                                       \
  nvmlReturn_t function(nvmlDevice_t device, type* value) {                 \
    return number(#function, device, field, value);                         \
  }

extern "C" {

nvmlReturn_t nvmlInitWithFlags(unsigned) {
  script::log("nvmlInitWithFlags", "system");
  if (!script::present()) return NVML_ERROR_DRIVER_NOT_LOADED;
  Answer answer;
  if (script::answer("system.init", &answer) && answer.error)
    return static_cast<nvmlReturn_t>(answer.error);
  ++initialized;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2() { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown() {
  script::log("nvmlShutdown", "system");
  if (!initialized) return NVML_ERROR_UNINITIALIZED;
  --initialized;
  return NVML_SUCCESS;
}

const char* nvmlErrorString(nvmlReturn_t result) {
  static const std::map<int, const char*> words = {
      {0, "Success"}, {1, "Uninitialized"}, {2, "Invalid Argument"}, {3, "Not Supported"},
      {4, "Insufficient Permissions"}, {6, "Not Found"}, {9, "Driver Not Loaded"},
      {13, "Function Not Found"}, {15, "GPU is lost"}, {16, "GPU requires restart"},
      {18, "Driver/library version mismatch"}, {21, "No data"}};
  const auto found = words.find(result);
  return found == words.end() ? "Unknown Error" : found->second;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char* version, unsigned length) {
  return text("nvmlSystemGetDriverVersion", "system", "driver_version", version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int* version) {
  Answer answer;
  const nvmlReturn_t code =
      ask("nvmlSystemGetCudaDriverVersion_v2", "system", "cuda_version", &answer);
  if (code == NVML_SUCCESS) *version = static_cast<int>(answer.number());
  return code;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int* version) {
  return nvmlSystemGetCudaDriverVersion_v2(version);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned* count) {
  script::log("nvmlDeviceGetCount_v2", "system");
  if (!initialized) return NVML_ERROR_UNINITIALIZED;
  *count = count_gpus();
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t* device) {
  script::log("nvmlDeviceGetHandleByIndex_v2", "system");
  if (!initialized) return NVML_ERROR_UNINITIALIZED;
  if (index >= count_gpus()) return NVML_ERROR_INVALID_ARGUMENT;
  // A lost GPU has no handle any more.
  Answer answer;
  *device = handle(static_cast<int>(index));
  if (script::answer(name_of(*device) + ".*", &answer) && answer.error)
    return static_cast<nvmlReturn_t>(answer.error);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char* uuid, nvmlDevice_t* device) {
  return find("nvmlDeviceGetHandleByUUID", "uuid", uuid, device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char* bus, nvmlDevice_t* device) {
  unsigned domain, number, slot;
  if (std::sscanf(bus, "%x:%x:%x", &domain, &number, &slot) != 3)
    return NVML_ERROR_INVALID_ARGUMENT;
  char whole[32];
  std::snprintf(whole, sizeof whole, "%08X:%02X:%02X.0", domain, number, slot);
  return find("nvmlDeviceGetHandleByPciBusId_v2", "bus", whole, device);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char* name, unsigned length) {
  return text("nvmlDeviceGetName", name_of(device), "name", name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char* uuid, unsigned length) {
  return text("nvmlDeviceGetUUID", name_of(device), "uuid", uuid, length);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t* info) {
  return pci("nvmlDeviceGetPciInfo_v3", name_of(device), "bus", info);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t* memory) {
  nvmlReturn_t code =
      number("nvmlDeviceGetMemoryInfo", device, "memory_used_bytes", &memory->used);
  if (code != NVML_SUCCESS) return code;
  code = number("nvmlDeviceGetMemoryInfo", device, "memory_total_bytes", &memory->total);
  memory->free = memory->total - memory->used;
  return code;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t* rates) {
  const char* function = "nvmlDeviceGetUtilizationRates";
  const nvmlReturn_t code = number(function, device, "utilization_percent", &rates->gpu);
  if (code != NVML_SUCCESS) return code;
  return number(function, device, "memory_utilization_percent", &rates->memory);
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t, unsigned* value) {
  return number("nvmlDeviceGetTemperature", device, "temperature_celsius", value);
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned* value) {
  return number("nvmlDeviceGetClockInfo", device, type == 2 ? "memory_clock_mhz" : "sm_clock_mhz",
                value);
}

NUMBER(nvmlDeviceGetPowerUsage, "power_milliwatts", unsigned)
NUMBER(nvmlDeviceGetMaxMigDeviceCount, "max_mig_devices", unsigned)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation", unsigned)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "max_pcie_generation", unsigned)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width", unsigned)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "max_pcie_width", unsigned)

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned* current, unsigned* pending) {
  const nvmlReturn_t code = number("nvmlDeviceGetMigMode", device, "mig_mode", current);
  *pending = *current;
  return code;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index,
                                                 nvmlDevice_t* slice) {
  script::log("nvmlDeviceGetMigDeviceHandleByIndex", name_of(device));
  if (index >= kMaxSlices) return NVML_ERROR_INVALID_ARGUMENT;
  *slice = handle(device->gpu, static_cast<int>(index));
  return script::has(name_of(*slice) + ".uuid") ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int* major, int* minor) {
  Answer answer;
  const nvmlReturn_t code = ask("nvmlDeviceGetCudaComputeCapability", name_of(device),
                                "compute_capability", &answer);
  if (code == NVML_SUCCESS) std::sscanf(answer.text.c_str(), "%d.%d", major, minor);
  return code;
}

// The script holds PID:BYTES for each process, separated by spaces.
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned* count,
                                                     nvmlProcessInfo_t* found) {
  Answer answer;
  const nvmlReturn_t code = ask("nvmlDeviceGetComputeRunningProcesses_v3", name_of(device),
                                "processes", &answer);
  if (code != NVML_SUCCESS) return code;
  unsigned present = 0;
  unsigned long long pid, bytes;
  int length;
  for (const char* rest = answer.text.c_str();
       std::sscanf(rest, " %llu:%llu%n", &pid, &bytes, &length) == 2; rest += length) {
    if (found && present < *count) found[present] = {static_cast<unsigned>(pid), bytes, ~0u, ~0u};
    ++present;
  }
  const bool fits = present <= *count && (found || !present);
  *count = present;
  return fits ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

}  // extern "C"
