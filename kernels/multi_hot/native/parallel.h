// Work sharing over XLA's thread pool. It never waits for work that has not started, because the
// calling thread may be one of the pool's.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

namespace multi_hot {

namespace internal {

struct Job {
  std::function<void(int64_t)> body;
  int64_t num_blocks;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;  // the first one; read it only when all blocks are done

  // After a failure, the remaining blocks are only counted.
  void work() noexcept {
    for (;;) {
      const int64_t block = next.fetch_add(1, std::memory_order_relaxed);
      if (block >= num_blocks) return;
      try {
        if (!failed.load(std::memory_order_relaxed)) body(block);
      } catch (...) {
        fail();
      }
      done.fetch_add(1, std::memory_order_release);
    }
  }

  // Keeps the current exception if it is the first.
  void fail() noexcept {
    if (!failed.exchange(true)) failure = std::current_exception();
  }
};

}  // namespace internal

// Calls body(0) ... body(num_blocks - 1), each once, from this thread and from idle workers, and
// returns when all are done. Any thread may run any block, so blocks must not depend on it.
//
// If a block or `Schedule` throws, no further block starts. The first exception is rethrown here
// once all started blocks have ended, because they use what `body` refers to.
//
// `Pool` has the methods of XLA's: `num_threads()` and `Schedule(task)`.
template <class Pool>
void parallel_for(Pool& pool, int64_t num_blocks, std::function<void(int64_t)> body) {
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), num_blocks) - 1;
  if (helpers < 1) {
    for (int64_t block = 0; block < num_blocks; ++block) body(block);
    return;
  }
  // Shared: a late helper finds no block left, perhaps after this function has returned.
  auto job = std::make_shared<internal::Job>();
  job->body = std::move(body);
  job->num_blocks = num_blocks;
  try {
    for (int64_t i = 0; i < helpers; ++i) pool.Schedule([job] { job->work(); });
  } catch (...) {
    job->fail();
  }
  job->work();
  // Only blocks that helpers are running now remain, for microseconds: spin first.
  for (int spins = 0; job->done.load(std::memory_order_acquire) < num_blocks; ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
  // Moved out of the job, so that a late helper does not destroy an exception in use.
  if (job->failed) std::rethrow_exception(std::exchange(job->failure, nullptr));
}

}  // namespace multi_hot
