// A libnvrtc.so.12 that "compiles" to a line of text, and refuses what an option or the sources say.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {
struct Program {
  std::string sources, log, output;
};
}  // namespace

extern "C" {

int nvrtcVersion(int* major, int* minor) {
  *major = 12;
  *minor = 9;
  return 0;
}
int nvrtcGetNumSupportedArchs(int* count) {
  *count = 3;
  return 0;
}
int nvrtcGetSupportedArchs(int* architectures) {
  const int known[] = {70, 80, 90};
  std::memcpy(architectures, known, sizeof known);
  return 0;
}
int nvrtcCreateProgram(void** program, const char* source, const char* name, int count,
                       const char** headers, const char** names) {
  auto* own = new Program;
  own->sources = std::string(name) + source;
  for (int i = 0; i < count; ++i) own->sources += std::string(names[i]) + headers[i];
  *program = own;
  return 0;
}
int nvrtcCompileProgram(void* program, int count, const char** options) {
  auto* own = static_cast<Program*>(program);
  if (const char* path = std::getenv("FAKE_NVRTC_LOG")) {
    std::FILE* file = std::fopen(path, "a");
    std::fprintf(file, "%s\n", options[0]);
    std::fclose(file);
  }
  for (const char* part : {"forward.h", "sums.h", "multi_hot_scatter"}) {
    if (own->sources.find(part) == std::string::npos) own->log += std::string("no ") + part + "\n";
  }
  if (std::getenv("FAKE_NVRTC_FAILS") != nullptr) own->log += "kernels.cu(1): error: refused\n";
  for (int i = 0; i < count; ++i) own->output += std::string(options[i]) + " ";
  return own->log.empty() ? 0 : 6;
}
int nvrtcGetProgramLogSize(void* program, std::size_t* size) {
  *size = static_cast<Program*>(program)->log.size() + 1;
  return 0;
}
int nvrtcGetProgramLog(void* program, char* log) {
  std::strcpy(log, static_cast<Program*>(program)->log.c_str());
  return 0;
}
int nvrtcGetCUBINSize(void* program, std::size_t* size) {
  *size = static_cast<Program*>(program)->output.size() + 1;
  return 0;
}
int nvrtcGetCUBIN(void* program, char* code) {
  std::strcpy(code, static_cast<Program*>(program)->output.c_str());
  return 0;
}
int nvrtcGetPTXSize(void* program, std::size_t* size) { return nvrtcGetCUBINSize(program, size); }
int nvrtcGetPTX(void* program, char* code) { return nvrtcGetCUBIN(program, code); }
int nvrtcDestroyProgram(void** program) {
  delete static_cast<Program*>(*program);
  return 0;
}
}
