// The scheduler of emulation.h.
#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "launch.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
#define ACQUIRE(token) __tsan_acquire(token)
#define RELEASE(token) __tsan_release(token)
extern "C" void AnnotateIgnoreWritesBegin(const char*, int);
extern "C" void AnnotateIgnoreWritesEnd(const char*, int);
#else
#define ACQUIRE(token) ((void)(token))
#define RELEASE(token) ((void)(token))
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// The scheduler's own variables are no accesses of the kernels.
#define UNSEEN __attribute__((no_sanitize("thread"), noinline))

namespace emulation {
namespace {

constexpr int kStackBytes = 1 << 17, kMaxThreads = 1024, kMaxShared = 8;
enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Place {
  ucontext_t context;
  jmp_buf jump;
  bool has_run = false;
};

struct Fiber {
  Place place;
  std::unique_ptr<char[]> stack;
  State state;
  int thread;  // in its block
  Collective kind;
  std::uint32_t given;
#if defined(__SANITIZE_THREAD__)
  void* tsan;
#endif
};

struct Scheduler {
  std::vector<Fiber> fibers = std::vector<Fiber>(kMaxThreads);
  int num_made = 0;
  Place home;
  Fiber* running = nullptr;
  std::uint32_t taken[kMaxThreads / 32][32];
  Dim grid, block_index, block;
  Kernel kernel;
  const void* arguments;
  std::uint64_t random;
  // Addresses that stand for what orders accesses: the launch, its end, barriers of blocks and warps.
  char launched, ended;
  std::vector<char> barriers;
  char* barrier_of_block;
  void* shared[kMaxShared];
#if defined(__SANITIZE_THREAD__)
  void* tsan_home;
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* home_stack;
  std::size_t home_bytes;
#endif
};

Scheduler& scheduler() {
  static Scheduler only;
  return only;
}
Scheduler* const the = &scheduler();

UNSEEN std::uint64_t draw(std::uint64_t below) {
  the->random ^= the->random << 13;
  the->random ^= the->random >> 7;
  the->random ^= the->random << 17;
  return (the->random >> 11) % below;
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s in block (%u, %u)\n", what, the->block_index.x, the->block_index.y);
  std::abort();
}

UNSEEN void go(Place& from, Place& to) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  swapcontext(&from.context, &to.context);
#else  // without the two system calls of that, after the first time
  if (_setjmp(from.jump) != 0) return;
  from.has_run = true;
  if (to.has_run) _longjmp(to.jump, 1);
  to.has_run = true;
  setcontext(&to.context);
#endif
}

// From the fiber that runs back to the scheduler.
UNSEEN void leave() {
  Fiber* const own = the->running;
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(the->tsan_home, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
  void* fake;
  __sanitizer_start_switch_fiber(&fake, the->home_stack, the->home_bytes);
#endif
  go(own->place, the->home);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

UNSEEN void enter(Fiber& fiber) {
  the->running = &fiber;
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
  void* fake;
  __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), kStackBytes);
#endif
  go(the->home, fiber.place);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

UNSEEN void finish() {
  the->running->state = State::kDone;
  leave();
}
UNSEEN void run_kernel() { the->kernel(the->arguments); }

void live() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &the->home_stack, &the->home_bytes);
#endif
  for (;;) {  // one block after another
    ACQUIRE(&the->launched);
    run_kernel();
    RELEASE(&the->ended);
    finish();
  }
}

void make_fibers(int count) {
  for (; the->num_made < count; ++the->num_made) {
    Fiber& fiber = the->fibers[the->num_made];
    fiber.stack.reset(new char[kStackBytes]);
    getcontext(&fiber.place.context);
    fiber.place.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.place.context.uc_stack.ss_size = kStackBytes;
    fiber.place.context.uc_link = nullptr;
    makecontext(&fiber.place.context, live, 0);
#if defined(__SANITIZE_THREAD__)
    fiber.tsan = __tsan_create_fiber(0);
#endif
  }
}

bool all_at(int first, int last, State state) {
  for (int i = first; i < last; ++i) {
    if (the->fibers[i].state != state) return false;
  }
  return true;
}

// Lets a warp go on whose lanes have all arrived.
UNSEEN void complete_warp(int warp, std::vector<int>& ready) {
  Fiber* const lanes = &the->fibers[32 * warp];
  for (int i = 0; i < 32; ++i) {
    if (lanes[i].kind != lanes[0].kind) fail("lanes of a warp wait at different operations");
    the->taken[warp][lanes[i].thread % 32] = lanes[i].given;
    lanes[i].state = State::kReady;
    ready.push_back(32 * warp + i);
  }
}

// Fiber i plays another lane of its warp in every block, so that no two blocks are ordered by being
// played by the same fibers.
void run_block(int num_threads, int turn) {
  std::vector<int> ready;
  for (int i = 0; i < num_threads; ++i) {
    the->fibers[i].state = State::kReady;
    the->fibers[i].thread = i / 32 * 32 + (i + turn) % 32;
    ready.push_back(i);
  }
  while (!ready.empty()) {
    const std::size_t next = draw(ready.size());
    const int own = ready[next];
    ready[next] = ready.back();
    ready.pop_back();
    enter(the->fibers[own]);
    const int warp = own / 32;
    switch (the->fibers[own].state) {
      case State::kReady: ready.push_back(own); break;
      case State::kAtWarp:
        if (all_at(32 * warp, 32 * warp + 32, State::kAtWarp)) complete_warp(warp, ready);
        break;
      case State::kAtBlock:
        if (!all_at(0, num_threads, State::kAtBlock)) break;
        for (int i = 0; i < num_threads; ++i) {
          the->fibers[i].state = State::kReady;
          ready.push_back(i);
        }
        break;
      case State::kDone: break;
    }
  }
  if (!all_at(0, num_threads, State::kDone)) fail("threads wait for others that do not come");
}

UNSEEN void arrive(State state) {
  the->running->state = state;
  leave();
}

UNSEEN char* barrier_of_warp() { return the->barrier_of_block + 1 + the->running->thread / 32; }
UNSEEN char* barrier_of_block() { return the->barrier_of_block; }

}  // namespace

UNSEEN Dim thread_index() { return {static_cast<unsigned>(the->running->thread), 0, 0}; }
UNSEEN Dim block_index() { return the->block_index; }
UNSEEN Dim grid_size() { return the->grid; }
UNSEEN Dim block_size() { return the->block; }
UNSEEN void interrupt() {
  if (draw(4) == 0) leave();
}

UNSEEN void* shared(int site, std::size_t bytes) {
  void*& place = the->shared[site % kMaxShared];
  if (place == nullptr) {
#if defined(__SANITIZE_THREAD__)
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
    place = ::operator new(bytes);
    std::memset(place, 0xa5, bytes);
#if defined(__SANITIZE_THREAD__)
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
#endif
  }
  return place;
}

void sync_block() {
  RELEASE(barrier_of_block());
  arrive(State::kAtBlock);
  ACQUIRE(barrier_of_block());
}

UNSEEN static const std::uint32_t* offer(Collective kind, std::uint32_t value) {
  Fiber& own = *the->running;
  own.kind = kind;
  own.given = value;
  arrive(State::kAtWarp);
  return the->taken[own.thread / 32];
}

const std::uint32_t* exchange(Collective kind, std::uint32_t mask, std::uint32_t value) {
  if (mask != ~0u) fail("only whole warps are emulated");
  if (kind == Collective::kSync) RELEASE(barrier_of_warp());
  const std::uint32_t* all = offer(kind, value);
  if (kind == Collective::kSync) ACQUIRE(barrier_of_warp());
  return all;
}

void launch(Kernel kernel, const void* arguments, Dim grid, Dim block, std::uint64_t seed) {
  const int num_threads = static_cast<int>(block.x);
  if (num_threads > kMaxThreads || num_threads % 32 != 0) fail("an odd size of blocks");
  the->kernel = kernel;
  the->arguments = arguments;
  the->grid = grid;
  the->block = block;
  the->random = seed * 0x9e3779b97f4a7c15u + 1;
  make_fibers(num_threads);
#if defined(__SANITIZE_THREAD__)
  the->tsan_home = __tsan_get_current_fiber();
#endif
  const unsigned num_blocks = grid.x * grid.y, num_barriers = 1 + num_threads / 32;
  std::vector<unsigned> order(num_blocks);
  for (unsigned i = 0; i < num_blocks; ++i) order[i] = i;
  for (unsigned i = num_blocks; i > 1; --i) std::swap(order[i - 1], order[draw(i)]);
  // Of its own for each block: a barrier of one orders nothing in another.
  std::vector<char>(num_blocks * num_barriers * 8).swap(the->barriers);
  RELEASE(&the->launched);
  for (unsigned turn = 0; turn < num_blocks; ++turn) {
    the->block_index = {order[turn] % grid.x, order[turn] / grid.x, 0};
    the->barrier_of_block = &the->barriers[turn * num_barriers * 8];
    run_block(num_threads, static_cast<int>(turn));
    ACQUIRE(&the->ended);  // for this thread alone, which frees what they used
    for (void*& place : the->shared) {
      ::operator delete(place);
      place = nullptr;
    }
  }
}

}  // namespace emulation
