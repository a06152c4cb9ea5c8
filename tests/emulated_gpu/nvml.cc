// A libnvidia-ml.so.1 that answers NVML's C API from a script, so that nvidia-ml-py itself can be tested on
// any machine. nvml.py builds it and documents the script. Signatures and layouts are those of NVIDIA's nvml.h.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace {

enum { kSuccess = 0, kUninitialized = 1, kInvalidArgument = 2, kNotSupported = 3, kNotFound = 6, kTooSmall = 7 };
using Device = const std::string*;  // "gpu0", or "gpu0.mig0"
int initialized = 0;

// Read at each call, since a test replaces the file when something is to happen.
std::map<std::string, std::string> script() {
  std::map<std::string, std::string> lines;
  const char* path = std::getenv("FAKE_NVML_SCRIPT");
  std::ifstream file(path ? path : "");
  for (std::string line; std::getline(file, line);) {
    const size_t equals = line.find(" = ");
    if (equals != std::string::npos) lines[line.substr(0, equals)] = line.substr(equals + 3);
  }
  return lines;
}

// The subject's answer to a query, or what stands for all of its queries under `*`.
int ask(const std::string& subject, const std::string& query, std::string* answer) {
  if (!initialized) return kUninitialized;
  const auto lines = script();
  for (const std::string& key : {subject + ".*", subject + "." + query}) {
    const auto found = lines.find(key);
    if (found == lines.end()) continue;
    if (found->second == "hang") {
      for (;;) pause();
    }
    int error;
    if (std::sscanf(found->second.c_str(), "error %d", &error) == 1) return error;
    *answer = found->second;
    return kSuccess;
  }
  return kNotSupported;
}

template <typename Number>
int number(Device device, const char* query, Number* value) {
  std::string answer;
  const int code = ask(*device, query, &answer);
  if (code == kSuccess) *value = static_cast<Number>(std::strtod(answer.c_str(), nullptr));
  return code;
}

int text(const std::string& subject, const char* query, char* buffer, unsigned length) {
  std::string answer;
  const int code = ask(subject, query, &answer);
  if (code != kSuccess) return code;
  return static_cast<unsigned>(std::snprintf(buffer, length, "%s", answer.c_str())) < length ? kSuccess : kTooSmall;
}

// Finds a device that the script has. A lost one has no handle any more.
int find(const std::string& name, int otherwise, Device* device) {
  static std::mutex mutex;
  static auto* names = new std::set<std::string>;
  if (script().count(name + ".uuid") == 0) return otherwise;
  const std::lock_guard<std::mutex> lock(mutex);
  *device = &*names->insert(name).first;
  std::string answer;
  return ask(name, "uuid", &answer);
}

}  // namespace

extern "C" {

int nvmlInitWithFlags(unsigned) {
  ++initialized;
  std::string answer;
  const int code = ask("system", "driver_version", &answer);
  initialized -= code != kSuccess;
  return code;
}
int nvmlInit_v2() { return nvmlInitWithFlags(0); }
int nvmlShutdown() { return initialized-- > 0 ? kSuccess : kUninitialized; }
// What TensorFlow alone asks; it has no GPU where a function is missing.
int nvmlDeviceGetHandleByPciBusId_v2(const char*, Device*) { return kNotSupported; }
int nvmlDeviceGetMaxPcieLinkGeneration(Device, unsigned*) { return kNotSupported; }
int nvmlDeviceGetMaxPcieLinkWidth(Device, unsigned*) { return kNotSupported; }
int nvmlDeviceGetCurrPcieLinkGeneration(Device, unsigned*) { return kNotSupported; }
int nvmlDeviceGetCurrPcieLinkWidth(Device, unsigned*) { return kNotSupported; }
const char* nvmlErrorString(int code) {
  return code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : code == 18 ? "Driver/library version mismatch" : "An error";
}
int nvmlSystemGetDriverVersion(char* version, unsigned length) {
  return text("system", "driver_version", version, length);
}
int nvmlSystemGetCudaDriverVersion(int* version) {
  const std::string system = "system";
  return number(&system, "cuda_version", version);
}
int nvmlDeviceGetCount_v2(unsigned* count) {
  const auto lines = script();
  for (*count = 0; lines.count("gpu" + std::to_string(*count) + ".uuid"); ++*count) {
  }
  return initialized ? kSuccess : kUninitialized;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device* device) {
  return find("gpu" + std::to_string(index), kInvalidArgument, device);
}
int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device* slice) {
  return find(*device + ".mig" + std::to_string(index), kNotFound, slice);
}
int nvmlDeviceGetHandleByUUID(const char* uuid, Device* device) {
  for (const auto& [key, value] : script()) {
    const size_t dot = key.rfind('.');
    if (value == uuid && key.substr(dot) == ".uuid") return find(key.substr(0, dot), kNotFound, device);
  }
  return kNotFound;
}
int nvmlDeviceGetName(Device device, char* name, unsigned length) { return text(*device, "name", name, length); }
int nvmlDeviceGetUUID(Device device, char* uuid, unsigned length) { return text(*device, "uuid", uuid, length); }
struct PciInfo {
  char old_address[16];
  unsigned domain, bus, device, device_id, system_id;
  char address[32];
};
int nvmlDeviceGetPciInfo_v3(Device device, PciInfo* info) {
  *info = {};
  return text(*device, "bus", info->address, sizeof info->address);
}
struct Memory {
  unsigned long long total, free, used;
};
int nvmlDeviceGetMemoryInfo(Device device, Memory* memory) {
  const int code = number(device, "memory_used_bytes", &memory->used);
  return code != kSuccess ? code : number(device, "memory_total_bytes", &memory->total);
}
int nvmlDeviceGetUtilizationRates(Device device, unsigned* rates) {
  const int code = number(device, "utilization_percent", &rates[0]);
  return code != kSuccess ? code : number(device, "memory_utilization_percent", &rates[1]);
}
int nvmlDeviceGetTemperature(Device device, unsigned, unsigned* value) {
  return number(device, "temperature_celsius", value);
}
int nvmlDeviceGetClockInfo(Device device, unsigned type, unsigned* value) {
  return number(device, type == 2 ? "memory_clock_mhz" : "sm_clock_mhz", value);
}
int nvmlDeviceGetPowerUsage(Device device, unsigned* value) { return number(device, "power_milliwatts", value); }
int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned* value) { return number(device, "max_mig_devices", value); }
int nvmlDeviceGetMigMode(Device device, unsigned* current, unsigned* pending) {
  const int code = number(device, "mig_mode", current);
  *pending = *current;
  return code;
}
int nvmlDeviceGetCudaComputeCapability(Device device, int* major, int* minor) {
  std::string answer;
  const int code = ask(*device, "compute_capability", &answer);
  if (code == kSuccess) std::sscanf(answer.c_str(), "%d.%d", major, minor);
  return code;
}
struct Process {
  unsigned id;
  unsigned long long bytes;
  unsigned gpu_instance, compute_instance;
};
int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned* count, Process* found) {
  std::string answer;
  const int code = ask(*device, "processes", &answer);
  if (code != kSuccess) return code;
  const unsigned room = *count;
  *count = 0;
  unsigned id;
  int length;
  for (const char* rest = answer.c_str(); std::sscanf(rest, "%u%n", &id, &length) == 1; rest += length) {
    if (found && *count < room) found[*count] = {id, 0, ~0u, ~0u};
    ++*count;
  }
  return *count <= room ? kSuccess : kTooSmall;
}

}  // extern "C"
