// Graphs: captured from streams, or put together. Their nodes run in any order that their edges allow.
#include <algorithm>

#include "streams.h"

namespace emulated {

CUgraphNode add_node(CUgraph graph, CUgraphNodeType kind, std::vector<CUgraphNode> dependencies, Work work) {
  graph->nodes.emplace_back(new CUgraphNode_st{kind, std::move(dependencies), std::move(work)});
  return graph->nodes.back().get();
}

namespace {

CUgraph clone(CUgraph graph) {
  const CUgraph copy = new CUgraph_st;
  std::map<CUgraphNode, CUgraphNode> to;
  for (const auto& node : graph->nodes) {
    std::vector<CUgraphNode> dependencies;
    for (const CUgraphNode before : node->dependencies) dependencies.push_back(to.at(before));
    to[node.get()] = add_node(copy, node->kind, dependencies, node->work);
    if (node->child != nullptr) to[node.get()]->child = clone(node->child);
  }
  return copy;
}

// What a launch does: what the graph holds now, since a later change must not be seen by it.
void append_works(CUgraph graph, std::vector<Work>& works) {
  std::vector<CUgraphNode> left, done;
  for (const auto& node : graph->nodes) left.push_back(node.get());
  while (!left.empty()) {
    std::vector<CUgraphNode> free;
    for (const CUgraphNode node : left) {
      const auto is_done = [&](CUgraphNode before) {
        return std::find(done.begin(), done.end(), before) != done.end();
      };
      if (std::all_of(node->dependencies.begin(), node->dependencies.end(), is_done)) free.push_back(node);
    }
    if (free.empty()) fail("a graph has a circle");
    const CUgraphNode next = free[draw(free.size())];
    if (next->child != nullptr) append_works(next->child, works);
    if (next->work) works.push_back(next->work);
    done.push_back(next);
    left.erase(std::find(left.begin(), left.end(), next));
  }
}

std::vector<CUgraphNode> listed(const CUgraphNode* nodes, size_t count) { return {nodes, nodes + count}; }

Work copying(const CUDA_MEMCPY3D& copy) {
  if (copy.Height > 1 || copy.Depth > 1) fail("a graph copies a matrix");
  void* const to = copy.dstMemoryType == CU_MEMORYTYPE_HOST ? copy.dstHost : (void*)copy.dstDevice;
  const void* const from = copy.srcMemoryType == CU_MEMORYTYPE_HOST ? copy.srcHost : (void*)copy.srcDevice;
  return emulated::copying(to, from, copy.WidthInBytes);
}

Work setting(const CUDA_MEMSET_NODE_PARAMS& set) {
  if (set.height > 1) fail("a graph sets a matrix");
  return [set] {
    for (size_t i = 0; i < set.width; ++i) {
      std::memcpy((char*)set.dst + i * set.elementSize, &set.value, set.elementSize);
    }
  };
}

CUresult set_kernel(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* given) {
  return launch(given->func, {given->gridDimX, given->gridDimY, given->gridDimZ},
                {given->blockDimX, given->blockDimY, given->blockDimZ}, given->sharedMemBytes,
                given->kernelParams, given->extra, &node->work);
}

}  // namespace
}  // namespace emulated

using namespace emulated;

API CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  *status = stream != nullptr && stream->capture != nullptr ? CU_STREAM_CAPTURE_STATUS_ACTIVE
                                                            : CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
API CUresult cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph, const CUgraphNode* before,
                                         const CUgraphEdgeData*, size_t count, CUstreamCaptureMode) {
  stream->capture = graph;
  stream->last = listed(before, count);
  return CUDA_SUCCESS;
}
API CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  return cuStreamBeginCaptureToGraph(stream, new CUgraph_st, nullptr, nullptr, 0, mode);
}
API CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  if (graph != nullptr) *graph = stream->capture;
  stream->capture = nullptr;
  stream->last.clear();
  return CUDA_SUCCESS;
}
API CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  thread_local CUstreamCaptureMode own = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::swap(*mode, own);
  return CUDA_SUCCESS;
}

SUCCEEDS(cuGraphCreate, (CUgraph* graph, unsigned), *graph = new CUgraph_st)
API CUresult cuGraphAddKernelNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before, size_t count,
                                  const CUDA_KERNEL_NODE_PARAMS* given) {
  *node = add_node(graph, CU_GRAPH_NODE_TYPE_KERNEL, listed(before, count), {});
  return set_kernel(*node, given);
}
API CUresult cuGraphExecKernelNodeSetParams(CUgraphExec, CUgraphNode node,
                                            const CUDA_KERNEL_NODE_PARAMS* given) {
  return set_kernel(node, given);
}
API CUresult cuGraphAddMemcpyNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before, size_t count,
                                  const CUDA_MEMCPY3D* given, CUcontext) {
  *node = add_node(graph, CU_GRAPH_NODE_TYPE_MEMCPY, listed(before, count), copying(*given));
  return CUDA_SUCCESS;
}
SUCCEEDS(cuGraphExecMemcpyNodeSetParams, (CUgraphExec, CUgraphNode node, const CUDA_MEMCPY3D* given, CUcontext),
         node->work = copying(*given))
API CUresult cuGraphAddMemsetNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before, size_t count,
                                  const CUDA_MEMSET_NODE_PARAMS* given, CUcontext) {
  *node = add_node(graph, CU_GRAPH_NODE_TYPE_MEMSET, listed(before, count), setting(*given));
  return CUDA_SUCCESS;
}
API CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec, CUgraphNode node,
                                            const CUDA_MEMSET_NODE_PARAMS* given, CUcontext) {
  node->work = setting(*given);
  return CUDA_SUCCESS;
}
API CUresult cuGraphAddChildGraphNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before,
                                      size_t count, CUgraph child) {
  *node = add_node(graph, CU_GRAPH_NODE_TYPE_GRAPH, listed(before, count), {});
  (*node)->child = clone(child);
  return CUDA_SUCCESS;
}
SUCCEEDS(cuGraphExecChildGraphNodeSetParams, (CUgraphExec, CUgraphNode node, CUgraph child),
         node->child = clone(child))
API CUresult cuGraphAddEmptyNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* before, size_t count) {
  *node = add_node(graph, CU_GRAPH_NODE_TYPE_EMPTY, listed(before, count), {});
  return CUDA_SUCCESS;
}
SUCCEEDS(cuGraphNodeGetType, (CUgraphNode node, CUgraphNodeType* kind), *kind = node->kind)
API CUresult cuGraphGetRootNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
  size_t found = 0;
  for (const auto& node : graph->nodes) {
    if (!node->dependencies.empty()) continue;
    if (nodes != nullptr && found < *count) nodes[found] = node.get();
    ++found;
  }
  *count = found;
  return CUDA_SUCCESS;
}
API CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph};
  return CUDA_SUCCESS;
}
API CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  std::vector<Work> works;
  append_works(executable->graph, works);
  note("graph of %zu", works.size());
  enqueue(stream, [works] {
    for (const Work& work : works) work();
  });
  return CUDA_SUCCESS;
}
