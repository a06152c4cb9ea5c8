// NVRTC whose machine code is PTX. All else is the real one's, which this library is linked with.
#include <cstddef>

extern "C" {
int nvrtcGetPTXSize(void* program, size_t* size);
int nvrtcGetPTX(void* program, char* text);

int nvrtcGetCUBINSize(void* program, size_t* size) { return nvrtcGetPTXSize(program, size); }
int nvrtcGetCUBIN(void* program, char* text) { return nvrtcGetPTX(program, text); }
}
