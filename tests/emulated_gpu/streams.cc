// Each stream is a thread, so that what is not synchronized happens in another order now and then. Graphs are
// captured from streams, or put together; their nodes run in any order that their edges allow.
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

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
  const std::string lost = current_device() == 1 ? setting("LOST", "") : "";
  std::unique_lock<std::mutex> lock(mutex);
  for (;;) {
    changed.wait(lock, [&] { return !stream->waiting.empty(); });
    const Work work = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    lock.unlock();
    while (!lost.empty() && access(lost.c_str(), F_OK) == 0) pause();
    if (draw(8) == 0) usleep(draw(200));  // a lead that nobody may count on
    work();
    lock.lock();
    ++stream->num_done;
    changed.notify_all();
  }
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

CUgraphNode add_node(CUgraph graph, std::vector<CUgraphNode> dependencies, std::vector<Work> works) {
  graph->nodes.push_back({std::move(dependencies), std::move(works)});
  return &graph->nodes.back();
}

// What the graph does now: a later change must not be seen by a launch, or where it is another's child.
std::vector<Work> works_of(CUgraph graph) {
  std::vector<Work> works;
  std::set<CUgraphNode> done;
  const auto is_done = [&](CUgraphNode node) { return done.count(node) > 0; };
  while (done.size() < graph->nodes.size()) {
    const CUgraphNode next = &graph->nodes[draw(graph->nodes.size())];
    const auto& before = next->dependencies;
    if (is_done(next) || !std::all_of(before.begin(), before.end(), is_done)) continue;
    works.insert(works.end(), next->works.begin(), next->works.end());
    done.insert(next);
  }
  return works;
}

}  // namespace

void enqueue(CUstream stream, Work work) {
  if (stream == nullptr) fail("there is no default stream");
  if (stream->capture != nullptr) {
    stream->last.assign(1, add_node(stream->capture, stream->last, {std::move(work)}));
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

}  // namespace emulated

using namespace emulated;

API CUresult cuStreamCreate(CUstream* stream, unsigned) {
  note("stream on " + std::to_string(current_device()));
  const std::lock_guard<std::mutex> lock(mutex);
  *stream = new CUstream_st{primary_context(current_device())};
  streams.push_back(*stream);
  std::thread(serve, *stream).detach();
  return CUDA_SUCCESS;
}
// Its thread stays, and waits for nothing.
SUCCEEDS(cuStreamDestroy, (CUstream stream), synchronize(stream))
API CUresult cuStreamSynchronize(CUstream stream) {
  note("synchronize");
  if (stream->capture != nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  synchronize(stream);
  return CUDA_SUCCESS;
}
API CUresult cuCtxSynchronize() {
  std::unique_lock<std::mutex> lock(mutex);
  const std::vector<CUstream> all = streams;
  lock.unlock();
  for (const CUstream stream : all) {
    if (stream->context->device == current_device()) synchronize(stream);
  }
  return CUDA_SUCCESS;
}
SUCCEEDS(cuLaunchHostFunc, (CUstream stream, CUhostFn function, void* data),
         enqueue(stream, [=] { function(data); }))

SUCCEEDS(cuEventCreate, (CUevent* event, unsigned), *event = new CUevent_st)
SUCCEEDS(cuEventDestroy, (CUevent event), delete event)
API CUresult cuEventRecord(CUevent event, CUstream stream) {
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

SUCCEEDS(cuStreamIsCapturing, (CUstream stream, CUstreamCaptureStatus* status),
         *status = stream != nullptr && stream->capture != nullptr ? CU_STREAM_CAPTURE_STATUS_ACTIVE
                                                                   : CU_STREAM_CAPTURE_STATUS_NONE)
SUCCEEDS(cuStreamBeginCaptureToGraph,
         (CUstream stream, CUgraph graph, const CUgraphNode*, const CUgraphEdgeData*, size_t, CUstreamCaptureMode),
         stream->capture = graph)
API CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  *graph = std::exchange(stream->capture, nullptr);
  stream->last.clear();
  return CUDA_SUCCESS;
}

SUCCEEDS(cuGraphCreate, (CUgraph* graph, unsigned), *graph = new CUgraph_st)
API CUresult cuGraphAddEmptyNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before, size_t count) {
  *node = add_node(graph, {before, before + count}, {});
  return CUDA_SUCCESS;
}
API CUresult cuGraphExecKernelNodeSetParams(CUgraphExec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* given) {
  node->works.resize(1);
  return launch(*given, &node->works[0]);
}
API CUresult cuGraphAddKernelNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before, size_t count,
                                  const CUDA_KERNEL_NODE_PARAMS* given) {
  cuGraphAddEmptyNode(node, graph, before, count);
  return cuGraphExecKernelNodeSetParams(nullptr, *node, given);
}
API CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec, CUgraphNode node, const CUDA_MEMCPY3D* given, CUcontext) {
  const bool is_host = given->dstMemoryType == CU_MEMORYTYPE_HOST || given->srcMemoryType == CU_MEMORYTYPE_HOST;
  if (is_host || given->Height > 1 || given->Depth > 1) fail("a graph copies a matrix, or what the host holds");
  node->works = {copying(given->dstDevice, given->srcDevice, given->WidthInBytes)};
  return CUDA_SUCCESS;
}
API CUresult cuGraphAddMemcpyNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before, size_t count,
                                  const CUDA_MEMCPY3D* given, CUcontext context) {
  cuGraphAddEmptyNode(node, graph, before, count);
  return cuGraphExecMemcpyNodeSetParams(nullptr, *node, given, context);
}
SUCCEEDS(cuGraphExecChildGraphNodeSetParams, (CUgraphExec, CUgraphNode node, CUgraph child),
         node->works = works_of(child))
API CUresult cuGraphAddChildGraphNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before, size_t count,
                                      CUgraph child) {
  cuGraphAddEmptyNode(node, graph, before, count);
  return cuGraphExecChildGraphNodeSetParams(nullptr, *node, child);
}
// XLA asks only whether there are any.
SUCCEEDS(cuGraphGetRootNodes, (CUgraph graph, CUgraphNode*, size_t* count), *count = graph->nodes.size())
SUCCEEDS(cuGraphInstantiateWithFlags, (CUgraphExec* executable, CUgraph graph, unsigned long long),
         *executable = reinterpret_cast<CUgraphExec>(graph))
API CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  const std::vector<Work> works = works_of(reinterpret_cast<CUgraph>(executable));
  note("graph of " + std::to_string(works.size()));
  enqueue(stream, [works] {
    for (const Work& work : works) work();
  });
  return CUDA_SUCCESS;
}
