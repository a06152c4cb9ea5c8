// Graphs: captured from streams, or put together. Their nodes run in any order that their edges allow.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "device.h"

namespace emulated {

CUgraphNode add_node(CUgraph graph, std::vector<CUgraphNode> dependencies, Work work) {
  graph->nodes.emplace_back(new CUgraphNode_st{std::move(dependencies), std::move(work)});
  return graph->nodes.back().get();
}

namespace {

CUgraph clone(CUgraph graph) {
  const CUgraph copy = new CUgraph_st;
  std::map<CUgraphNode, CUgraphNode> to;
  for (const auto& node : graph->nodes) {
    std::vector<CUgraphNode> dependencies;
    for (const CUgraphNode before : node->dependencies) dependencies.push_back(to.at(before));
    to[node.get()] = add_node(copy, dependencies, node->work);
    if (node->child != nullptr) to[node.get()]->child = clone(node->child);
  }
  return copy;
}

// What a launch does: what the graph holds now, since a later change must not be seen by it.
void append_works(CUgraph graph, std::vector<Work>& works) {
  std::set<CUgraphNode> done;
  while (done.size() < graph->nodes.size()) {
    const CUgraphNode next = graph->nodes[draw(graph->nodes.size())].get();
    const auto is_done = [&](CUgraphNode node) { return done.count(node) > 0; };
    const auto& before = next->dependencies;
    if (is_done(next) || !std::all_of(before.begin(), before.end(), is_done)) continue;
    if (next->child != nullptr) append_works(next->child, works);
    if (next->work) works.push_back(next->work);
    done.insert(next);
  }
}

Work copying(const CUDA_MEMCPY3D& given) {
  const bool is_of_device = given.dstMemoryType == CU_MEMORYTYPE_DEVICE && given.srcMemoryType == CU_MEMORYTYPE_DEVICE;
  if (!is_of_device || given.Height > 1 || given.Depth > 1) fail("a graph copies a matrix, or what the host holds");
  return emulated::copying(given.dstDevice, given.srcDevice, given.WidthInBytes);
}

}  // namespace
}  // namespace emulated

using namespace emulated;

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
API CUresult cuGraphAddKernelNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before, size_t count,
                                  const CUDA_KERNEL_NODE_PARAMS* given) {
  cuGraphAddEmptyNode(node, graph, before, count);
  return launch(*given, &(*node)->work);
}
API CUresult cuGraphExecKernelNodeSetParams(CUgraphExec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* given) {
  return launch(*given, &node->work);
}
API CUresult cuGraphAddMemcpyNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before, size_t count,
                                  const CUDA_MEMCPY3D* given, CUcontext) {
  *node = add_node(graph, {before, before + count}, copying(*given));
  return CUDA_SUCCESS;
}
SUCCEEDS(cuGraphExecMemcpyNodeSetParams, (CUgraphExec, CUgraphNode node, const CUDA_MEMCPY3D* given, CUcontext),
         node->work = copying(*given))
API CUresult cuGraphAddChildGraphNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before,
                                      size_t count, CUgraph child) {
  cuGraphAddEmptyNode(node, graph, before, count);
  (*node)->child = clone(child);
  return CUDA_SUCCESS;
}
SUCCEEDS(cuGraphExecChildGraphNodeSetParams, (CUgraphExec, CUgraphNode node, CUgraph child),
         node->child = clone(child))
// XLA asks only whether there are any.
SUCCEEDS(cuGraphGetRootNodes, (CUgraph graph, CUgraphNode*, size_t* count), *count = graph->nodes.size())
SUCCEEDS(cuGraphInstantiateWithFlags, (CUgraphExec* executable, CUgraph graph, unsigned long long),
         *executable = reinterpret_cast<CUgraphExec>(graph))
API CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  std::vector<Work> works;
  append_works(reinterpret_cast<CUgraph>(executable), works);
  note("graph of %zu", works.size());
  enqueue(stream, [works] {
    for (const Work& work : works) work();
  });
  return CUDA_SUCCESS;
}
