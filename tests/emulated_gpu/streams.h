// Streams, events, and the graphs that streams are captured into.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "device.h"

struct CUctx_st {
  int device;
};
struct CUgraphNode_st {
  CUgraphNodeType kind;
  std::vector<CUgraphNode> dependencies;
  emulated::Work work;
  CUgraph child = nullptr;
};
struct CUgraph_st {
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};
struct CUgraphExec_st {
  CUgraph graph;
};
struct CUstream_st {
  CUcontext context;
  int priority;
  std::deque<emulated::Work> waiting;
  uint64_t num_enqueued = 0, num_done = 0;
  CUgraph capture = nullptr;
  std::vector<CUgraphNode> last;  // what the next captured node depends on
};
struct Moment {
  bool has_come = false;
  double at_ms = 0;
};
struct CUevent_st {
  std::shared_ptr<Moment> moment = std::make_shared<Moment>(Moment{true});
  CUgraph capture = nullptr;
  std::vector<CUgraphNode> last;
};

namespace emulated {
CUgraphNode add_node(CUgraph graph, CUgraphNodeType kind, std::vector<CUgraphNode> dependencies, Work work);
}
