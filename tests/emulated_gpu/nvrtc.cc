// NVRTC that gives the text which an assembler would make machine code of: all is the real one's, which
// EMULATED_GPU_NVRTC names, but for the architecture it compiles for.
#include <dlfcn.h>

#include <cstddef>
#include <cstdlib>
#include <string>
#include <vector>

#define API extern "C"

namespace {
template <class... Arguments>
int call(const char* name, Arguments... arguments) {
  static void* const real = dlopen(std::getenv("EMULATED_GPU_NVRTC"), RTLD_NOW);
  return reinterpret_cast<int (*)(Arguments...)>(dlsym(real, name))(arguments...);
}
}  // namespace

API int nvrtcVersion(int* major, int* minor) { return call("nvrtcVersion", major, minor); }
API int nvrtcGetNumSupportedArchs(int* count) { return call("nvrtcGetNumSupportedArchs", count); }
API int nvrtcGetSupportedArchs(int* all) { return call("nvrtcGetSupportedArchs", all); }
API int nvrtcCreateProgram(void** program, const char* source, const char* name, int count, const char** headers,
                           const char** names) {
  return call("nvrtcCreateProgram", program, source, name, count, headers, names);
}
API int nvrtcCompileProgram(void* program, int count, const char** options) {
  std::vector<std::string> virtual_ones(options, options + count);
  std::vector<const char*> given;
  for (std::string& option : virtual_ones) {
    const size_t at = option.find("=sm_");
    if (at != std::string::npos) option.replace(at, 4, "=compute_");
    given.push_back(option.c_str());
  }
  return call("nvrtcCompileProgram", program, count, given.data());
}
API int nvrtcGetProgramLogSize(void* program, size_t* size) { return call("nvrtcGetProgramLogSize", program, size); }
API int nvrtcGetProgramLog(void* program, char* log) { return call("nvrtcGetProgramLog", program, log); }
API int nvrtcGetPTXSize(void* program, size_t* size) { return call("nvrtcGetPTXSize", program, size); }
API int nvrtcGetPTX(void* program, char* text) { return call("nvrtcGetPTX", program, text); }
API int nvrtcGetCUBINSize(void* program, size_t* size) { return nvrtcGetPTXSize(program, size); }
API int nvrtcGetCUBIN(void* program, char* text) { return nvrtcGetPTX(program, text); }
API int nvrtcDestroyProgram(void** program) { return call("nvrtcDestroyProgram", program); }
