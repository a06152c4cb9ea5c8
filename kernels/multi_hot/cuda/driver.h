// The CUDA driver, and the kernels that it has loaded.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "../native/frame.h"

namespace multi_hot {

// The driver's functions that are called, as cuda.h declares them. None of them waits for the device, and
// none allocates memory of it but the loading of a module.
struct Driver {
  using Handle = void*;  // of a context, module, function or stream
  static constexpr char kLibrary[] = "libcuda.so.1";
  int (*cuCtxGetCurrent)(Handle*) = Symbol{kLibrary, "cuCtxGetCurrent"};
  int (*cuModuleLoadData)(Handle*, const void*) = Symbol{kLibrary, "cuModuleLoadData"};
  int (*cuModuleGetFunction)(Handle*, Handle, const char*) = Symbol{kLibrary, "cuModuleGetFunction"};
  int (*cuThreadExchangeStreamCaptureMode)(int*) =
      Symbol{kLibrary, "cuThreadExchangeStreamCaptureMode"};
  int (*cuMemsetD8Async)(std::uint64_t, unsigned char, std::size_t, Handle) =
      Symbol{kLibrary, "cuMemsetD8Async"};
  int (*cuLaunchKernel)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                        Handle, void**, void**) = Symbol{kLibrary, "cuLaunchKernel"};
  int (*cuGetErrorString)(int, const char**) = Symbol{kLibrary, "cuGetErrorString"};

  // Raises what is missing, if something is.
  static const Driver& get() {
    static const Driver only;
    return only;
  }

  // Raises what failed, unless nothing did.
  void check(int status, const std::string& what) const {
    if (status == 0) return;
    const char* text = nullptr;
    cuGetErrorString(status, &text);
    throw std::runtime_error("CUDA's driver failed in " + what + ": " +
                             (text == nullptr ? "error " + std::to_string(status) : text));
  }
};

// The compiled kernels, for compute capabilities in ascending order, and the modules that contexts have
// loaded of them.
class Modules {
 public:
  static Modules& get() {
    static Modules* const only = new Modules;  // contexts may outlive static objects
    return *only;
  }

  void add(const void* image, std::size_t size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const char* const bytes = static_cast<const char*>(image);
    images_.emplace_back(bytes, bytes + size);
  }

  // Finds a kernel for the context of this thread, and loads the module if it is the first.
  Driver::Handle find(const std::string& name) {
    const Driver& driver = Driver::get();
    Driver::Handle context = nullptr;
    driver.check(driver.cuCtxGetCurrent(&context), "cuCtxGetCurrent");
    if (context == nullptr) throw std::runtime_error("no CUDA context is current");
    const std::lock_guard<std::mutex> lock(mutex_);
    Loaded& loaded = loaded_[context];
    Driver::Handle& function = loaded.functions[name];
    if (function == nullptr) {
      const Relaxed relaxed(driver);
      if (loaded.module == nullptr) loaded.module = load(driver);
      driver.check(driver.cuModuleGetFunction(&function, loaded.module, name.c_str()),
                   "cuModuleGetFunction of " + name);
    }
    return function;
  }

 private:
  struct Loaded {
    Driver::Handle module = nullptr;
    std::map<std::string, Driver::Handle> functions;
  };

  // A graph may be being captured on this thread, in a mode in which nothing may be loaded.
  struct Relaxed {
    const Driver& driver;
    int mode = 2;

    explicit Relaxed(const Driver& driver) : driver(driver) { exchange(); }
    ~Relaxed() { exchange(); }
    void exchange() { driver.cuThreadExchangeStreamCaptureMode(&mode); }
  };

  Driver::Handle load(const Driver& driver) const {
    Driver::Handle module = nullptr;
    int status = 0;
    // A GPU refuses those for later capabilities.
    for (auto image = images_.rbegin(); module == nullptr && image != images_.rend(); ++image) {
      status = driver.cuModuleLoadData(&module, image->data());
    }
    driver.check(status, "cuModuleLoadData");
    return module;
  }

  std::mutex mutex_;
  std::vector<std::vector<char>> images_;
  std::map<Driver::Handle, Loaded> loaded_;
};

// Launches on XLA's stream. Nothing is waited for, so a pass can be captured into a CUDA graph. What
// fails is raised.
class Queue : public Stream {
 public:
  using Stream::Stream;

  template <class Arguments>
  void launch(const std::string& kernel, unsigned blocks, unsigned blocks_in_y, unsigned threads,
              const Arguments& arguments) const {
    Driver::Handle function = Modules::get().find(kernel);
    void* parameters[] = {const_cast<Arguments*>(&arguments)};
    const Driver& driver = Driver::get();
    driver.check(driver.cuLaunchKernel(function, blocks, blocks_in_y, 1, threads, 1, 1, 0, handle(),
                                       parameters, nullptr),
                 kernel);
  }

  // Sets memory to 0.
  void clear(void* memory, std::size_t bytes) const {
    const Driver& driver = Driver::get();
    const auto address = reinterpret_cast<std::uintptr_t>(memory);
    driver.check(driver.cuMemsetD8Async(address, 0, bytes, handle()), "cuMemsetD8Async");
  }
};

}  // namespace multi_hot
