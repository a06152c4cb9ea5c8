// XLA's side of the foreign function interface, for calls of the handlers without XLA: what they register,
// and calls with buffers and a stream.
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "xla/ffi/api/c_api.h"

struct XLA_FFI_Error {
  std::string message;
};

namespace {

struct Handler {
  std::string platform;
  XLA_FFI_Handler_Bundle bundle;
};
std::map<std::string, Handler>& handlers() {
  static std::map<std::string, Handler> only;
  return only;
}
void* stream = nullptr;

XLA_FFI_Error* create(XLA_FFI_Error_Create_Args* args) { return new XLA_FFI_Error{args->message}; }
void get_message(XLA_FFI_Error_GetMessage_Args* args) { args->message = args->error->message.c_str(); }
void destroy(XLA_FFI_Error_Destroy_Args* args) { delete args->error; }
XLA_FFI_Error* register_handler(XLA_FFI_Handler_Register_Args* args) {
  handlers()[std::string(args->name.ptr, args->name.len)] = {
      std::string(args->platform.ptr, args->platform.len), args->bundle};
  return nullptr;
}
XLA_FFI_Error* get_stream(XLA_FFI_Stream_Get_Args* args) {
  args->stream = stream;
  return nullptr;
}

const XLA_FFI_Api* api() {
  static XLA_FFI_Api only = {};
  only.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  only.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  only.XLA_FFI_Error_Create = create;
  only.XLA_FFI_Error_GetMessage = get_message;
  only.XLA_FFI_Error_Destroy = destroy;
  only.XLA_FFI_Handler_Register = register_handler;
  only.XLA_FFI_Stream_Get = get_stream;
  return &only;
}

XLA_FFI_CallFrame frame_of() {
  XLA_FFI_CallFrame frame = {};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = api();
  frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
  frame.args.struct_size = XLA_FFI_Args_STRUCT_SIZE;
  frame.rets.struct_size = XLA_FFI_Rets_STRUCT_SIZE;
  frame.attrs.struct_size = XLA_FFI_Attrs_STRUCT_SIZE;
  return frame;
}

}  // namespace

extern "C" {

const void* frame_api() { return api(); }

// The platform that a handler is registered for, or an empty string.
const char* frame_platform(const char* name) { return handlers()[name].platform.c_str(); }

// The traits that a handler tells of when it is asked, or -1.
int frame_traits(const char* name) {
  XLA_FFI_Metadata metadata = {};
  metadata.struct_size = XLA_FFI_Metadata_STRUCT_SIZE;
  metadata.api_version.struct_size = XLA_FFI_Api_Version_STRUCT_SIZE;
  XLA_FFI_Metadata_Extension extension = {};
  extension.extension_base.struct_size = XLA_FFI_Metadata_Extension_STRUCT_SIZE;
  extension.extension_base.type = XLA_FFI_Extension_Metadata;
  extension.metadata = &metadata;
  XLA_FFI_CallFrame frame = frame_of();
  frame.extension_start = &extension.extension_base;
  return handlers()[name].bundle.execute(&frame) == nullptr ? static_cast<int>(metadata.traits) : -1;
}

// Calls a handler; returns its error, or null. Its attributes, in alphabetical order, are the first
// bytes of numbers.
const char* frame_call(const char* name, void* on_stream, int num_operands, int num_results,
                       XLA_FFI_Buffer* buffers, int num_attributes, const char** attributes,
                       std::int64_t* numbers, const int* number_types) {
  static std::string message;
  stream = on_stream;
  for (int i = 0; i < num_operands + num_results; ++i) {
    buffers[i].struct_size = XLA_FFI_Buffer_STRUCT_SIZE;
    buffers[i].extension_start = nullptr;
  }
  std::vector<void*> pointers;
  for (int i = 0; i < num_operands + num_results; ++i) pointers.push_back(&buffers[i]);
  std::vector<XLA_FFI_ArgType> arg_types(num_operands, XLA_FFI_ArgType_BUFFER);
  std::vector<XLA_FFI_RetType> ret_types(num_results, XLA_FFI_RetType_BUFFER);
  XLA_FFI_CallFrame frame = frame_of();
  frame.args.size = num_operands;
  frame.args.types = arg_types.data();
  frame.args.args = pointers.data();
  frame.rets.size = num_results;
  frame.rets.types = ret_types.data();
  frame.rets.rets = pointers.data() + num_operands;
  const size_t count = num_attributes;
  std::vector<XLA_FFI_Scalar> scalars(count);
  std::vector<XLA_FFI_ByteSpan> spans(count);
  std::vector<XLA_FFI_AttrType> types(count, XLA_FFI_AttrType_SCALAR);
  std::vector<XLA_FFI_ByteSpan*> names;
  std::vector<void*> values;
  for (size_t i = 0; i < count; ++i) {  // on machines whose low byte comes first
    scalars[i] = {static_cast<XLA_FFI_DataType>(number_types[i]), &numbers[i]};
    spans[i] = {attributes[i], std::strlen(attributes[i])};
    names.push_back(&spans[i]);
    values.push_back(&scalars[i]);
  }
  frame.attrs.size = num_attributes;
  frame.attrs.types = types.data();
  frame.attrs.names = names.data();
  frame.attrs.attrs = values.data();
  XLA_FFI_Error* const error = handlers()[name].bundle.execute(&frame);
  if (error == nullptr) return nullptr;
  message = error->message;
  delete error;
  return message.c_str();
}
}
