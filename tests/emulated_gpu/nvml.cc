// Answers NVML's C API from a script, so that nvidia-ml-py itself can be tested on any machine. nvml.py documents
// the script. Signatures and layouts are those of NVIDIA's nvml.h.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

namespace emulated {

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

}  // namespace emulated

namespace {

using emulated::script;
enum { kSuccess = 0, kUninitialized = 1, kInvalidArgument = 2, kNotSupported = 3, kNotFound = 6, kTooSmall = 7 };
using Device = uintptr_t;  // the number of a GPU or, times 256, of its slice and the GPU; both count from 1
constexpr Device kSystem = 0;
int initialized = 0;

std::string name_of(Device device) {
  if (device == kSystem) return "system";
  const std::string gpu = "gpu" + std::to_string(device % 256 - 1);
  return device < 256 ? gpu : gpu + ".mig" + std::to_string(device / 256 - 1);
}

Device slice_of(Device gpu, unsigned index) { return gpu + 256 * (index + 1); }

// The subject's answer to a query, or what stands for all of its queries under `*`.
int ask(Device device, const std::string& query, std::string* answer) {
  if (!initialized) return kUninitialized;
  const auto lines = script();
  const std::string subject = name_of(device);
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

// Writes the numbers that the answer holds.
template <typename... Number>
int numbers(Device device, const char* query, Number*... values) {
  std::string answer;
  const int code = ask(device, query, &answer);
  std::istringstream rest(answer);
  if (code == kSuccess) (rest >> ... >> *values);
  return code;
}

int text(Device device, const char* query, char* buffer, unsigned length) {
  std::string answer;
  const int code = ask(device, query, &answer);
  if (code != kSuccess) return code;
  return static_cast<unsigned>(std::snprintf(buffer, length, "%s", answer.c_str())) < length ? kSuccess : kTooSmall;
}

// Finds a device that the script has. A lost one has no handle any more.
int find(Device device, int otherwise, Device* found) {
  std::string answer;
  *found = device;
  return script().count(name_of(device) + ".uuid") ? ask(device, "uuid", &answer) : otherwise;
}

}  // namespace

extern "C" {

int nvmlInitWithFlags(unsigned) {
  ++initialized;
  std::string answer;
  const int code = ask(kSystem, "driver_version", &answer);
  initialized -= code != kSuccess;
  return code;
}
int nvmlShutdown() { return initialized-- > 0 ? kSuccess : kUninitialized; }
// What TensorFlow alone asks; it has no GPU where a function is missing.
int nvmlDeviceGetHandleByPciBusId_v2(const char*, Device*) { return kNotSupported; }
const char* nvmlErrorString(int code) {
  return code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : code == 18 ? "Driver/library version mismatch"
                                                                                   : "An error";
}
int nvmlSystemGetDriverVersion(char* version, unsigned length) {
  return text(kSystem, "driver_version", version, length);
}
int nvmlSystemGetCudaDriverVersion(int* version) { return numbers(kSystem, "cuda_version", version); }
int nvmlDeviceGetCount_v2(unsigned* count) {
  const auto lines = script();
  for (*count = 0; lines.count(name_of(*count + 1) + ".uuid"); ++*count) {
  }
  return initialized ? kSuccess : kUninitialized;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device* device) { return find(index + 1, kInvalidArgument, device); }
int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device* slice) {
  return find(slice_of(device, index), kNotFound, slice);
}
int nvmlDeviceGetHandleByUUID(const char* uuid, Device* device) {
  for (const auto& [key, value] : script()) {
    unsigned index, slice = -1;
    if (value != uuid || std::sscanf(key.c_str(), "gpu%u.mig%u", &index, &slice) < 1) continue;
    return find(slice_of(index + 1, slice), kNotFound, device);
  }
  return kNotFound;
}
int nvmlDeviceGetName(Device device, char* name, unsigned length) { return text(device, "name", name, length); }
int nvmlDeviceGetUUID(Device device, char* uuid, unsigned length) { return text(device, "uuid", uuid, length); }
struct PciInfo {
  char old_address[16];
  unsigned domain, bus, device, device_id, system_id;
  char address[32];
};
int nvmlDeviceGetPciInfo_v3(Device device, PciInfo* info) {
  *info = {};
  return text(device, "bus", info->address, sizeof info->address);
}
int nvmlDeviceGetMemoryInfo(Device device, unsigned long long* bytes) {
  return numbers(device, "memory_bytes", &bytes[0], &bytes[1], &bytes[2]);
}
int nvmlDeviceGetUtilizationRates(Device device, unsigned* rates) {
  return numbers(device, "utilization_percents", &rates[0], &rates[1]);
}
int nvmlDeviceGetTemperature(Device device, unsigned, unsigned* value) {
  return numbers(device, "temperature_celsius", value);
}
int nvmlDeviceGetClockInfo(Device device, unsigned type, unsigned* value) {
  return numbers(device, type == 2 ? "memory_clock_mhz" : "sm_clock_mhz", value);
}
int nvmlDeviceGetPowerUsage(Device device, unsigned* value) { return numbers(device, "power_milliwatts", value); }
int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned* value) { return numbers(device, "max_mig_devices", value); }
int nvmlDeviceGetMigMode(Device device, unsigned* current, unsigned*) { return numbers(device, "mig_mode", current); }
int nvmlDeviceGetCudaComputeCapability(Device device, int* major, int* minor) {
  char dot;
  return numbers(device, "compute_capability", major, &dot, minor);
}
struct Process {
  unsigned id;
  unsigned long long bytes;
  unsigned gpu_instance, compute_instance;
};
int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned* count, Process* found) {
  std::string answer;
  const int code = ask(device, "processes", &answer);
  const unsigned room = *count;
  std::istringstream rest(answer);
  *count = 0;
  for (unsigned id; rest >> id; ++*count) {
    if (*count < room) found[*count] = {id, 0, ~0u, ~0u};
  }
  return code == kSuccess && *count > room ? kTooSmall : code;
}

}  // extern "C"
