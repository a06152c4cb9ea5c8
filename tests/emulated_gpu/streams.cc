// Each stream is a thread, so that what is not synchronized happens in another order now and then.
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "device.h"

namespace emulated {
namespace {

// Guards all streams and events, which are told of any change together: there are few of them.
std::mutex mutex;
// Never destroyed, which would wait for the streams' threads.
std::condition_variable& changed = *new std::condition_variable;
std::vector<CUstream>& streams = *new std::vector<CUstream>;

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
CUstream make_stream() {
  auto* const stream = new CUstream_st{primary_context(current_device())};
  streams.push_back(stream);
  std::thread(serve, stream).detach();
  return stream;
}

// The stream, or the default one of the current device.
CUstream named(CUstream stream) {
  if (stream != nullptr) return stream;
  const std::lock_guard<std::mutex> lock(mutex);
  CUstream& own = primary_context(current_device())->default_stream;
  if (own == nullptr) own = make_stream();
  return own;
}

// Call with the mutex held.
bool has_come(const CUevent_st& place) {
  return place.stream == nullptr || place.stream->num_done >= place.num_before;
}

void wait_for(const CUevent_st& place) {
  std::unique_lock<std::mutex> lock(mutex);
  changed.wait(lock, [&] { return has_come(place); });
}

// Where an event was recorded last. Two threads may record an event at once.
CUevent_st place_of(CUevent event) {
  const std::lock_guard<std::mutex> lock(mutex);
  return *event;
}

}  // namespace

void enqueue(CUstream given, Work work) {
  const CUstream stream = named(given);
  if (stream->capture != nullptr) {
    const CUgraphNode node = add_node(stream->capture, stream->last, std::move(work));
    stream->last.assign(1, node);
    return;
  }
  const std::lock_guard<std::mutex> lock(mutex);
  stream->waiting.push_back(std::move(work));
  ++stream->num_enqueued;
  changed.notify_all();
}

void synchronize(CUstream stream) {
  CUevent_st now;
  cuEventRecord(&now, stream);
  wait_for(now);
}

void synchronize_device() {
  std::vector<CUstream> all;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    all = streams;
  }
  for (const CUstream stream : all) {
    if (stream->context->device == current_device()) synchronize(stream);
  }
}

}  // namespace emulated

using namespace emulated;

API CUresult cuStreamCreate(CUstream* stream, unsigned) {
  const std::lock_guard<std::mutex> lock(mutex);
  *stream = make_stream();
  return CUDA_SUCCESS;
}
// Its thread stays, and waits for nothing.
SUCCEEDS(cuStreamDestroy, (CUstream stream), synchronize(stream))
API CUresult cuStreamSynchronize(CUstream stream) {
  note("synchronize");
  if (named(stream)->capture != nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  synchronize(stream);
  return CUDA_SUCCESS;
}
SUCCEEDS(cuCtxSynchronize, (), synchronize_device())
SUCCEEDS(cuLaunchHostFunc, (CUstream stream, CUhostFn function, void* data),
         enqueue(stream, [=] { function(data); }))

SUCCEEDS(cuEventCreate, (CUevent* event, unsigned), *event = new CUevent_st)
SUCCEEDS(cuEventDestroy, (CUevent event), delete event)
API CUresult cuEventRecord(CUevent event, CUstream given) {
  const CUstream stream = named(given);
  if (stream->capture != nullptr) fail("an event is recorded in a graph");
  const std::lock_guard<std::mutex> lock(mutex);
  *event = {stream, stream->num_enqueued};
  return CUDA_SUCCESS;
}
API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  enqueue(stream, [place = place_of(event)] { wait_for(place); });
  return CUDA_SUCCESS;
}
API CUresult cuEventQuery(CUevent event) {
  const std::lock_guard<std::mutex> lock(mutex);
  return has_come(*event) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
