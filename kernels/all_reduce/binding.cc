// Sums over the GPUs of a process by NCCL, as a custom call through XLA's foreign function interface.
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../multi_hot/native/frame.h"

namespace {

using multi_hot::Buffer;
using multi_hot::Call;
using multi_hot::Stream;
using multi_hot::Symbol;

// NCCL's functions that are called, as nccl.h declares them, and one of CUDA's driver.
struct Nccl {
  using Communicator = void*;
  const char* path;  // of NCCL, while this is made
  int (*ncclCommInitAll)(Communicator*, int, const int*) = Symbol{path, "ncclCommInitAll"};
  int (*ncclCommAbort)(Communicator) = Symbol{path, "ncclCommAbort"};
  int (*ncclGroupStart)() = Symbol{path, "ncclGroupStart"};
  int (*ncclGroupEnd)() = Symbol{path, "ncclGroupEnd"};
  int (*ncclAllReduce)(const void*, void*, std::size_t, int, int, Communicator, void*) =
      Symbol{path, "ncclAllReduce"};
  const char* (*ncclGetErrorString)(int) = Symbol{path, "ncclGetErrorString"};
  int (*cuStreamSynchronize)(void*) = Symbol{"libcuda.so.1", "cuStreamSynchronize"};

  explicit Nccl(const char* path) : path(path) {}
};

// A GPU of a group.
struct Member {
  Nccl::Communicator communicator = nullptr;  // null once the group has ended
  std::timed_mutex in_use;
};
// What all calls share, for as long as the process lives: a program may run until its end.
struct State {
  std::mutex mutex;
  std::optional<Nccl> nccl;
  std::deque<std::deque<Member>> groups;
  std::set<std::pair<int64_t, int64_t>> begun;  // calls of programs that were run, and by which GPU
  std::string fault;
};
State& state() {
  static State* const only = new State;
  return *only;
}

// NCCL's number of a type.
int number_of(XLA_FFI_DataType type) {
  switch (type) {
    case XLA_FFI_DataType_S32: return 2;
    case XLA_FFI_DataType_S64: return 4;
    case XLA_FFI_DataType_F16: return 6;
    case XLA_FFI_DataType_F32: return 7;
    case XLA_FFI_DataType_F64: return 8;
    case XLA_FFI_DataType_BF16: return 9;
    default: throw std::invalid_argument("NCCL sums no tensors of this type");
  }
}

// (maybe what is waited for, tensors) -> the sum of each tensor over the GPUs of the group
void all_reduce(const Call& call, Stream& stream) {
  constexpr int kSum = 0;
  const Nccl& nccl = *state().nccl;
  const int64_t rank = call.attribute<int64_t>("rank");
  Member* member;
  bool is_first;
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    member = &state().groups.at(call.attribute<int64_t>("group")).at(rank);
    is_first = state().begun.insert({call.attribute<int64_t>("call"), rank}).second;
  }
  const int64_t first = call.num_operands() - call.num_results();
  std::vector<int> types;
  for (int64_t i = 0; i < call.num_results(); ++i) types.push_back(number_of(call.result(i).type()));
  std::unique_lock<std::timed_mutex> in_use(member->in_use);
  if (member->communicator == nullptr) {
    throw std::runtime_error(
        "a GPU failed before, and the sums over the GPUs ended with it; make a new trainer");
  }
  int status = nccl.ncclGroupStart();
  for (int64_t i = 0; status == 0 && i < call.num_results(); ++i) {
    const Buffer from = call.operand(first + i);
    if (from.size() == 0) continue;
    status = nccl.ncclAllReduce(from.data<void>(), call.result(i).data<void>(), from.size(), types[i], kSum,
                                member->communicator, stream.handle());
  }
  const int ended = nccl.ncclGroupEnd();
  in_use.unlock();
  if (status == 0) status = ended;
  if (status != 0) {
    throw std::runtime_error(std::string("NCCL cannot sum over the GPUs: ") +
                             nccl.ncclGetErrorString(status));
  }
  // CUDA loads a kernel when it is first launched, for which it waits until the GPU is idle, and keeps others
  // from loading theirs. So the first time nothing is launched behind a sum that waits for another GPU.
  if (is_first && nccl.cuStreamSynchronize(stream.handle()) != 0) {
    throw std::runtime_error("a GPU failed in its first sum");
  }
}

}  // namespace

extern "C" {

// Registers the call with the XLA of this process; returns whether it takes it.
bool multi_hot_register(const XLA_FFI_Api* api) {
  return multi_hot::take(api, "CUDA", {{"gpu_all_reduce", multi_hot::handler<Stream, all_reduce>}});
}

// Makes a group of GPUs and gives its number; returns what failed, or null.
const char* gpu_all_reduce_group(const char* path, int count, const int* devices, int64_t* number) {
  State& all = state();
  const std::lock_guard<std::mutex> lock(all.mutex);
  try {
    if (!all.nccl) all.nccl.emplace(path);
    // Connected here: a first sum would wait for those of the other GPUs, which may be this thread's to begin.
    setenv("NCCL_RUNTIME_CONNECT", "0", 0);
    std::vector<Nccl::Communicator> made(count);
    const int status = all.nccl->ncclCommInitAll(made.data(), count, devices);
    if (status != 0) throw std::runtime_error(all.nccl->ncclGetErrorString(status));
    *number = static_cast<int64_t>(all.groups.size());
    std::deque<Member>& group = all.groups.emplace_back();
    for (const Nccl::Communicator communicator : made) group.emplace_back().communicator = communicator;
    return nullptr;
  } catch (const std::exception& exception) {
    all.fault = exception.what();
    return all.fault.c_str();
  }
}

// Ends the sums that GPUs of a group wait in.
void gpu_all_reduce_end(int64_t number) {
  State& all = state();
  std::deque<Member>* group;
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    group = &all.groups.at(number);
  }
  for (Member& member : *group) {
    // NCCL may be kept from enqueueing a sum by the one that is to end: it is not waited for long.
    const std::unique_lock<std::timed_mutex> in_use(member.in_use, std::chrono::seconds(1));
    if (member.communicator != nullptr) all.nccl->ncclCommAbort(member.communicator);
    member.communicator = nullptr;
  }
}
}
