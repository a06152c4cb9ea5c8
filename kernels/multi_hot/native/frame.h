// A custom call as XLA hands it over, read through XLA's C interface. Its C++ one (ffi.h) takes the
// compiler longer than all kernels together, and the first run on a machine waits for that.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "row_sum.h"
#include "xla/ffi/api/c_api.h"

namespace multi_hot {

// An operand or a result. Python makes the calls (`call_on_platform`): their types and shapes are those
// that the kernels take.
class Buffer {
 public:
  explicit Buffer(const void* buffer) : buffer_(*static_cast<const XLA_FFI_Buffer*>(buffer)) {}

  XLA_FFI_DataType type() const { return buffer_.dtype; }
  int64_t rank() const { return buffer_.rank; }
  int64_t dim(int64_t axis) const { return buffer_.dims[axis]; }

  // The number of elements.
  int64_t size() const {
    int64_t size = 1;
    for (int64_t axis = 0; axis < buffer_.rank; ++axis) size *= buffer_.dims[axis];
    return size;
  }

  template <class T>  // void: of whatever type
  T* data() const {
    return static_cast<T*>(buffer_.data);
  }

 private:
  const XLA_FFI_Buffer& buffer_;
};

// What a call consists of.
class Call {
 public:
  explicit Call(const XLA_FFI_CallFrame& frame) : frame_(frame) {}

  int64_t num_operands() const { return frame_.args.size; }
  int64_t num_results() const { return frame_.rets.size; }

  Buffer operand(int64_t place) const { return Buffer(frame_.args.args[place]); }
  Buffer result(int64_t place) const { return Buffer(frame_.rets.rets[place]); }

  // A bool, int64_t or float that was given by name.
  template <class T>
  T attribute(std::string_view name) const {
    const XLA_FFI_Attrs& attrs = frame_.attrs;
    int64_t i = 0;
    while (name != std::string_view(attrs.names[i]->ptr, attrs.names[i]->len)) ++i;
    return *static_cast<const T*>(static_cast<const XLA_FFI_Scalar*>(attrs.attrs[i])->value);
  }

 private:
  const XLA_FFI_CallFrame& frame_;
};

// Whether XLA reported no error. One that it did report is the caller's.
inline bool succeeds(const XLA_FFI_Api* api, XLA_FFI_Error* error) {
  if (error == nullptr) return true;
  XLA_FFI_Error_Destroy_Args args = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
  api->XLA_FFI_Error_Destroy(&args);
  return false;
}

// XLA's thread pool, as `parallel_for` uses it. Without one there are no threads.
class Pool {
 public:
  explicit Pool(const XLA_FFI_CallFrame& frame) : api_(frame.api), context_(frame.ctx) {}

  int64_t num_threads() const {
    int64_t count = 0;
    XLA_FFI_ThreadPool_NumThreads_Args args = {XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE,
                                               nullptr, context_, &count};
    succeeds(api_, api_->XLA_FFI_ThreadPool_NumThreads(&args));
    return count;
  }

  void Schedule(std::function<void()> task) {
    auto* own = new std::function<void()>(std::move(task));
    const auto work = [](void* data) {
      auto* task = static_cast<std::function<void()>*>(data);
      (*task)();
      delete task;
    };
    XLA_FFI_ThreadPool_Schedule_Args args = {XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr,
                                             context_, work, own};
    if (!succeeds(api_, api_->XLA_FFI_ThreadPool_Schedule(&args))) work(own);
  }

 private:
  const XLA_FFI_Api* api_;
  XLA_FFI_ExecutionContext* context_;
};

// A GPU's stream, on which XLA runs a call.
class Stream {
 public:
  explicit Stream(const XLA_FFI_CallFrame& frame) {
    XLA_FFI_Stream_Get_Args args = {XLA_FFI_Stream_Get_Args_STRUCT_SIZE, nullptr, frame.ctx, nullptr};
    if (!succeeds(frame.api, frame.api->XLA_FFI_Stream_Get(&args))) {
      throw std::runtime_error("XLA has no stream for the call");
    }
    stream_ = args.stream;
  }

  void* handle() const { return stream_; }

 private:
  void* stream_;
};

// What XLA calls of a kernel, which runs `Where`: on a pool of threads, or a stream of a GPU. XLA
// expects no exceptions, and asks before the first call for the interface's version.
template <class Where, void kernel(const Call& call, Where& where), XLA_FFI_Handler_Traits traits = 0>
XLA_FFI_Error* handler(XLA_FFI_CallFrame* frame) {
  const auto error = [frame](XLA_FFI_Error_Code code, const char* message) {
    XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message,
                                      code};
    return frame->api->XLA_FFI_Error_Create(&args);
  };
  if (auto* base = frame->extension_start;
      base != nullptr && base->type == XLA_FFI_Extension_Metadata) {
    XLA_FFI_Metadata& metadata = *reinterpret_cast<XLA_FFI_Metadata_Extension*>(base)->metadata;
    metadata.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR,
                            XLA_FFI_API_MINOR};
    metadata.traits = traits;
    metadata.state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
    return nullptr;
  }
  try {
    Where where(*frame);
    kernel(Call(*frame), where);
    return nullptr;
  } catch (const std::invalid_argument& wrong) {
    return error(XLA_FFI_Error_Code_INVALID_ARGUMENT, wrong.what());
  } catch (const std::bad_alloc&) {
    return error(XLA_FFI_Error_Code_RESOURCE_EXHAUSTED,
                 "the native multi-hot kernels ran out of host memory");
  } catch (const std::exception& exception) {
    return error(XLA_FFI_Error_Code_INTERNAL, exception.what());
  }
}

// A function of a library that is loaded when it is first needed: this one is built without it.
struct Symbol {
  const char* library;
  const char* name;

  // Becomes the pointer that it initializes; raises what is missing.
  template <class Function>
  operator Function*() const {
    void* const loaded = dlopen(library, RTLD_NOW);
    void* const found = loaded == nullptr ? nullptr : dlsym(loaded, name);
    if (found == nullptr) throw std::runtime_error(dlerror());
    return reinterpret_cast<Function*>(found);
  }
};

struct Target {
  const char* name;
  XLA_FFI_Handler* handler;
};

// Registers handlers for a platform of XLA's; returns whether XLA takes them.
template <size_t N>
bool take(const XLA_FFI_Api* api, const char* platform, const Target (&targets)[N]) {
  for (const Target& target : targets) {
    XLA_FFI_Handler_Register_Args args = {};
    args.struct_size = XLA_FFI_Handler_Register_Args_STRUCT_SIZE;
    args.name = {target.name, std::strlen(target.name)};
    args.platform = {platform, std::strlen(platform)};
    args.bundle.execute = target.handler;
    if (!succeeds(api, api->XLA_FFI_Handler_Register(&args))) return false;
  }
  return true;
}

}  // namespace multi_hot
