// Each stream is a thread, so that what is not synchronized happens in another order now and then.
#include "streams.h"

#include <pthread.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace emulated {
namespace {

// Guards all streams and events, which are told of any change together: there are few of them.
std::mutex mutex;
// Never destroyed, which would wait for the streams' threads.
std::condition_variable& changed = *new std::condition_variable;

std::vector<CUstream>& streams() {
  static auto* all = new std::vector<CUstream>;
  return *all;
}

void serve(CUstream stream) {
  cuCtxSetCurrent(stream->context);
  std::unique_lock<std::mutex> lock(mutex);
  for (;;) {
    changed.wait(lock, [&] { return !stream->waiting.empty(); });
    const Work work = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    lock.unlock();
    if (draw(8) == 0) usleep(draw(200));  // a lead that nobody may count on
    work();
    lock.lock();
    ++stream->num_done;
    changed.notify_all();
  }
}

// Call with the mutex held.
CUstream make_stream(CUcontext context, int priority) {
  auto* const stream = new CUstream_st{};
  stream->context = context;
  stream->priority = priority;
  streams().push_back(stream);
  std::thread(serve, stream).detach();
  return stream;
}

CUstream named(CUstream stream) { return stream == nullptr ? default_stream() : stream; }

void wait_for(const std::shared_ptr<Moment>& moment) {
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [&] { return moment->has_come; });
}

// When an event was recorded last. Two threads may record an event at once.
std::shared_ptr<Moment> moment_of(CUevent event) {
  const std::lock_guard<std::mutex> lock(mutex);
  return event->moment;
}

}  // namespace

CUstream default_stream() {
  static CUstream known[16];
  const std::lock_guard<std::mutex> lock(mutex);
  const int device = current_device();
  if (known[device] == nullptr) known[device] = make_stream(primary_context(device), 0);
  return known[device];
}

void enqueue(CUstream given, Work work) {
  const CUstream stream = named(given);
  if (stream->capture != nullptr) {
    const CUgraphNode node = add_node(stream->capture, CU_GRAPH_NODE_TYPE_KERNEL, stream->last, std::move(work));
    stream->last.assign(1, node);
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex);
  stream->waiting.push_back(std::move(work));
  ++stream->num_enqueued;
  changed.notify_all();
}

void synchronize(CUstream given) {
  const CUstream stream = named(given);
  std::unique_lock<std::mutex> lock(mutex);
  const uint64_t last = stream->num_enqueued;
  changed.wait(lock, [&] { return stream->num_done >= last; });
}

void synchronize_device() {
  std::vector<CUstream> all;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    for (const CUstream stream : streams()) {
      if (stream->context->device == current_device()) all.push_back(stream);
    }
  }
  for (const CUstream stream : all) synchronize(stream);
}

}  // namespace emulated

using namespace emulated;

API CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned, int priority) {
  const std::lock_guard<std::mutex> lock(mutex);
  *stream = make_stream(primary_context(current_device()), priority);
  return CUDA_SUCCESS;
}
API CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  return cuStreamCreateWithPriority(stream, flags, 0);
}
API CUresult cuStreamDestroy(CUstream stream) {  // its thread stays, and waits for nothing
  synchronize(stream);
  return CUDA_SUCCESS;
}
API CUresult cuStreamSynchronize(CUstream stream) {
  note("synchronize");
  if (named(stream)->capture != nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  synchronize(stream);
  return CUDA_SUCCESS;
}
API CUresult cuStreamQuery(CUstream stream) {
  const CUstream own = named(stream);
  const std::lock_guard<std::mutex> lock(mutex);
  return own->num_done == own->num_enqueued ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
SUCCEEDS(cuStreamGetPriority, (CUstream stream, int* priority), *priority = named(stream)->priority)
SUCCEEDS(cuStreamGetCtx, (CUstream stream, CUcontext* context), *context = named(stream)->context)
SUCCEEDS(cuCtxSynchronize, (), synchronize_device())
API CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
  enqueue(stream, [=] { function(data); });
  return CUDA_SUCCESS;
}
API CUresult cuStreamAddCallback(CUstream stream, CUstreamCallback function, void* data, unsigned) {
  enqueue(stream, [=] { function(stream, CUDA_SUCCESS, data); });
  return CUDA_SUCCESS;
}

SUCCEEDS(cuEventCreate, (CUevent* event, unsigned), *event = new CUevent_st)
SUCCEEDS(cuEventDestroy, (CUevent event), delete event)
API CUresult cuEventRecord(CUevent event, CUstream given) {
  const CUstream stream = named(given);
  const auto moment = std::make_shared<Moment>();
  {
    const std::lock_guard<std::mutex> lock(mutex);
    event->capture = stream->capture;
    event->last = stream->last;
    if (stream->capture != nullptr) return CUDA_SUCCESS;
    event->moment = moment;
  }
  enqueue(stream, [moment] {
    const std::lock_guard<std::mutex> lock(mutex);
    const std::chrono::duration<double, std::milli> now = std::chrono::steady_clock::now().time_since_epoch();
    *moment = {true, now.count()};
  });
  return CUDA_SUCCESS;
}
API CUresult cuStreamWaitEvent(CUstream given, CUevent event, unsigned) {
  const CUstream stream = named(given);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (event->capture != nullptr) {  // the stream joins the capture
      stream->capture = event->capture;
      stream->last.insert(stream->last.end(), event->last.begin(), event->last.end());
      return CUDA_SUCCESS;
    }
  }
  enqueue(stream, [moment = moment_of(event)] { wait_for(moment); });
  return CUDA_SUCCESS;
}
API CUresult cuEventQuery(CUevent event) {
  const std::lock_guard<std::mutex> lock(mutex);
  return event->moment->has_come ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
API CUresult cuEventSynchronize(CUevent event) {
  note("synchronize");
  wait_for(moment_of(event));
  return CUDA_SUCCESS;
}
API CUresult cuEventElapsedTime(float* milliseconds, CUevent first, CUevent last) {
  const std::lock_guard<std::mutex> lock(mutex);
  *milliseconds = static_cast<float>(last->moment->at_ms - first->moment->at_ms);
  return CUDA_SUCCESS;
}
