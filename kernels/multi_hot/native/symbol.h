// Functions of libraries that are loaded when they are first needed: this one is built without them.
#pragma once

#include <dlfcn.h>

#include <stdexcept>

namespace multi_hot {

// Becomes the pointer that it initializes; raises what is missing.
struct Symbol {
  const char* library;
  const char* name;

  template <class Function>
  operator Function*() const {
    void* const loaded = dlopen(library, RTLD_NOW);
    void* const found = loaded == nullptr ? nullptr : dlsym(loaded, name);
    if (found == nullptr) throw std::runtime_error(dlerror());
    return reinterpret_cast<Function*>(found);
  }
};

}  // namespace multi_hot
