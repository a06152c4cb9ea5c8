// Work sharing over somebody else's thread pool, without ever blocking one of its threads on work
// that has not started: the calling thread may itself be one of them.
#ifndef MULTI_HOT_PARALLEL_H_
#define MULTI_HOT_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

namespace multi_hot {

// What the kernels ask of a thread pool.
class Workers {
 public:
  virtual ~Workers() = default;
  virtual int64_t num_threads() const = 0;
  virtual void schedule(std::function<void()> task) = 0;
};

namespace internal {

struct Job {
  std::function<void(int64_t)> body;
  int64_t num_blocks;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};

  void work() {
    for (;;) {
      const int64_t block = next.fetch_add(1, std::memory_order_relaxed);
      if (block >= num_blocks) return;
      body(block);
      done.fetch_add(1, std::memory_order_release);
    }
  }
};

}  // namespace internal

// Calls body(0) ... body(num_blocks - 1), each once, from this thread and from idle workers, and
// returns when all are done. Which thread runs which block is open, so blocks must not depend on it.
inline void parallel_for(Workers& workers, int64_t num_blocks,
                         std::function<void(int64_t)> body) {
  const int64_t helpers = std::min(workers.num_threads(), num_blocks) - 1;
  if (helpers < 1) {
    for (int64_t block = 0; block < num_blocks; ++block) body(block);
    return;
  }
  // Shared: a helper that is late finds no block left, perhaps after this function has returned.
  auto job = std::make_shared<internal::Job>();
  job->body = std::move(body);
  job->num_blocks = num_blocks;
  for (int64_t i = 0; i < helpers; ++i) workers.schedule([job] { job->work(); });
  job->work();
  // Only blocks that a helper is in the middle of are left: microseconds, so spin first.
  for (int spins = 0; job->done.load(std::memory_order_acquire) < num_blocks; ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
}

}  // namespace multi_hot

#endif  // MULTI_HOT_PARALLEL_H_
