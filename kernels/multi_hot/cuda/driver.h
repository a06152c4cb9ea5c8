// The CUDA driver, loaded when it is first needed: this library is built where there is none.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace multi_hot {

// The driver's functions that are called, as cuda.h declares them. None of them waits for the device, and
// none allocates memory of it but the loading of a module.
struct Driver {
  using Handle = void*;  // of a context, module, function or stream
  int (*cuCtxGetCurrent)(Handle*);
  int (*cuCtxGetDevice)(int*);
  int (*cuDeviceGetAttribute)(int*, int, int);
  int (*cuModuleLoadData)(Handle*, const void*);
  int (*cuModuleGetFunction)(Handle*, Handle, const char*);
  int (*cuThreadExchangeStreamCaptureMode)(int*);
  int (*cuMemsetD8Async)(std::uint64_t, unsigned char, std::size_t, Handle);
  int (*cuLaunchKernel)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                        Handle, void**, void**);
  int (*cuGetErrorString)(int, const char**);
  std::string missing;  // why it cannot be used

  static const Driver& get() {
    static const Driver only;
    return only;
  }

  // Returns what failed, or an empty string.
  std::string check(int status, const char* what) const {
    if (status == 0) return "";
    const char* text = nullptr;
    cuGetErrorString(status, &text);
    return "CUDA's driver failed in " + std::string(what) + ": " +
           (text == nullptr ? "error " + std::to_string(status) : text);
  }

 private:
  Driver() {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == nullptr) {
      missing = std::string("there is no CUDA driver: ") + dlerror();
      return;
    }
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      if (function == nullptr) missing = "CUDA's driver is too old: it has no " + std::string(name);
    };
    find(cuCtxGetCurrent, "cuCtxGetCurrent");
    find(cuCtxGetDevice, "cuCtxGetDevice");
    find(cuDeviceGetAttribute, "cuDeviceGetAttribute");
    find(cuModuleLoadData, "cuModuleLoadData");
    find(cuModuleGetFunction, "cuModuleGetFunction");
    find(cuThreadExchangeStreamCaptureMode, "cuThreadExchangeStreamCaptureMode");
    find(cuMemsetD8Async, "cuMemsetD8Async");
    find(cuLaunchKernel, "cuLaunchKernel");
    find(cuGetErrorString, "cuGetErrorString");
  }
};

// The compiled kernels, by compute capability, and the modules that contexts have loaded of them.
class Modules {
 public:
  static Modules& get() {
    static Modules* const only = new Modules;  // contexts may outlive static objects
    return *only;
  }

  void add(int major, int minor, const void* image, std::size_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const char* const bytes = static_cast<const char*>(image);
    images_[{major, minor}].assign(bytes, bytes + size);
  }

  // Finds a kernel for the context of this thread, and loads the module if it is the first; returns
  // what failed, or an empty string.
  std::string find(const std::string& name, Driver::Handle* function) {
    const Driver& driver = Driver::get();
    if (!driver.missing.empty()) return driver.missing;
    Driver::Handle context = nullptr;
    std::string fault = driver.check(driver.cuCtxGetCurrent(&context), "cuCtxGetCurrent");
    if (!fault.empty()) return fault;
    if (context == nullptr) return "no CUDA context is current";
    const std::lock_guard<std::mutex> lock(mutex_);
    Loaded& loaded = loaded_[context];
    const auto known = loaded.functions.find(name);
    if (known != loaded.functions.end()) {
      *function = known->second;
      return "";
    }
    // A graph may be being captured on this thread, in a mode in which nothing may be loaded.
    constexpr int kRelaxed = 2;
    int mode = kRelaxed;
    driver.cuThreadExchangeStreamCaptureMode(&mode);
    if (loaded.module == nullptr) fault = load(driver, &loaded.module);
    if (fault.empty()) {
      fault = driver.check(driver.cuModuleGetFunction(function, loaded.module, name.c_str()),
                           ("cuModuleGetFunction of " + name).c_str());
    }
    driver.cuThreadExchangeStreamCaptureMode(&mode);
    if (fault.empty()) loaded.functions[name] = *function;
    return fault;
  }

 private:
  struct Loaded {
    Driver::Handle module = nullptr;
    std::map<std::string, Driver::Handle> functions;
  };

  std::string load(const Driver& driver, Driver::Handle* module) {
    constexpr int kMajor = 75, kMinor = 76;
    int device = 0, major = 0, minor = 0;
    std::string fault = driver.check(driver.cuCtxGetDevice(&device), "cuCtxGetDevice");
    if (!fault.empty()) return fault;
    driver.cuDeviceGetAttribute(&major, kMajor, device);
    driver.cuDeviceGetAttribute(&minor, kMinor, device);
    const auto image = images_.find({major, minor});
    if (image == images_.end()) {
      return "the kernels were not compiled for this GPU's compute capability, " +
             std::to_string(major) + "." + std::to_string(minor);
    }
    return driver.check(driver.cuModuleLoadData(module, image->second.data()), "cuModuleLoadData");
  }

  std::mutex mutex_;
  std::map<std::pair<int, int>, std::vector<char>> images_;
  std::map<Driver::Handle, Loaded> loaded_;
};

// Launches on a stream. Nothing is waited for, so a pass can be captured into a CUDA graph.
struct DriverQueue {
  Driver::Handle stream;

  template <class Arguments>
  std::string launch(const std::string& kernel, unsigned blocks, unsigned of_columns,
                     unsigned threads, const Arguments& arguments) {
    Driver::Handle function = nullptr;
    const std::string fault = Modules::get().find(kernel, &function);
    if (!fault.empty()) return fault;
    void* parameters[] = {const_cast<Arguments*>(&arguments)};
    const Driver& driver = Driver::get();
    return driver.check(driver.cuLaunchKernel(function, blocks, of_columns, 1, threads, 1, 1, 0,
                                              stream, parameters, nullptr),
                        kernel.c_str());
  }

  std::string clear(void* memory, std::size_t bytes) {
    const Driver& driver = Driver::get();
    if (!driver.missing.empty()) return driver.missing;
    const auto address = reinterpret_cast<std::uintptr_t>(memory);
    return driver.check(driver.cuMemsetD8Async(address, 0, bytes, stream), "cuMemsetD8Async");
  }
};

}  // namespace multi_hot
