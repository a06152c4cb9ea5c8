// Runs a kernel's blocks, one after another in an order that follows from the seed. Threads that wait for each
// other are fibers of the calling thread, in such an order too.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

#include "device.h"

// Saves the registers that a function must keep, and goes on with another stack.
extern "C" void emulated_switch(void** from, void* to);
asm(R"(
.text

.globl emulated_switch
emulated_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

namespace emulated {
namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr int kBarriers = 16;
enum class State { kReady, kAtBarrier, kAtWarp, kDone };

struct Fiber {
  Thread thread;
  void* stack_pointer;
  char* stack = nullptr;
  State state;
  uint32_t barrier, outcome;
  int kind;  // of a warp's exchange
  uint32_t mask, given;
  Lanes taken;
};

struct Barrier {
  uint32_t arrived, wanted, votes;
};

// One block at a time, of this host thread.
struct Block {
  std::vector<Fiber> fibers = std::vector<Fiber>(1024);
  std::vector<uint32_t> ready;
  uint32_t size, num_done;
  Barrier barriers[kBarriers];
  Fiber* running;
  void* home;
  const Kernel* kernel;
  const char* name;
  std::vector<char> shared;
};
thread_local std::unique_ptr<Block> the;

void leave() { emulated_switch(&the->running->stack_pointer, the->home); }

void begin() {
  the->kernel->run(&the->running->thread);
  the->running->state = State::kDone;
  leave();
}

void wake(Fiber& fiber) {
  fiber.state = State::kReady;
  the->ready.push_back(&fiber - the->fibers.data());
}

void check_barrier(uint32_t id) {
  Barrier& barrier = the->barriers[id];
  const uint32_t wanted = barrier.wanted ? barrier.wanted : the->size - the->num_done;
  if (barrier.arrived == 0 || barrier.arrived < wanted) return;
  for (uint32_t i = 0; i < the->size; ++i) {
    Fiber& fiber = the->fibers[i];
    if (fiber.state != State::kAtBarrier || fiber.barrier != id) continue;
    fiber.outcome = barrier.votes | barrier.arrived << 16;
    wake(fiber);
  }
  barrier = {};
}

uint32_t barrier(Thread*, uint32_t id, uint32_t count, int predicate) {
  Fiber& own = *the->running;
  own.state = State::kAtBarrier;
  own.barrier = id;
  Barrier& barrier = the->barriers[id];
  barrier.wanted = count;
  barrier.votes += predicate != 0;
  ++barrier.arrived;
  check_barrier(id);
  leave();
  return own.outcome;
}

// Lets a lane that waits go on, with the others of its mask, once all of them that still run have arrived at
// the same operation.
void check_lane(uint32_t own) {
  const uint32_t first = own / 32 * 32, num_lanes = std::min(32u, the->size - first);
  Fiber* const lanes = &the->fibers[first];
  const Fiber& waits = the->fibers[own];
  Lanes taken = {};
  for (uint32_t j = 0; j < num_lanes; ++j) {
    if (!(waits.mask >> j & 1) || lanes[j].state == State::kDone) continue;
    if (lanes[j].state != State::kAtWarp || lanes[j].mask != waits.mask || lanes[j].kind != waits.kind) return;
    taken.members |= 1u << j;
    taken.value[j] = lanes[j].given;
  }
  for (uint32_t j = 0; j < num_lanes; ++j) {
    if (!(taken.members >> j & 1)) continue;
    lanes[j].taken = taken;
    wake(lanes[j]);
  }
}

const Lanes* exchange(Thread* thread, int kind, uint32_t mask, uint32_t value) {
  Fiber& own = *the->running;
  own.state = State::kAtWarp;
  own.kind = kind;
  own.mask = mask;
  own.given = value;
  if (!(mask >> thread->lane & 1)) fail("%s: a lane is not in the mask that it names", the->name);
  check_lane(&own - the->fibers.data());
  leave();
  return &own.taken;
}

void interrupt(Thread*) {
  if (!the->kernel->cooperates || draw(4) != 0) return;
  wake(*the->running);
  leave();
}

const Device device = {exchange, barrier, interrupt};

void make_ready(Fiber& fiber) {
  if (fiber.stack == nullptr) {
    void* const stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) fail("no memory for a thread's stack");
    fiber.stack = static_cast<char*>(stack);
  }
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes) - 1;  // aligned as after a call
  *--top = reinterpret_cast<void*>(begin);
  std::fill_n(top -= 6, 6, nullptr);
  fiber.stack_pointer = top;
  wake(fiber);
}

void run_block() {
  the->num_done = 0;
  std::fill_n(the->barriers, kBarriers, Barrier{});
  the->ready.clear();
  for (uint32_t i = 0; i < the->size; ++i) make_ready(the->fibers[i]);
  while (!the->ready.empty()) {
    std::swap(the->ready[draw(the->ready.size())], the->ready.back());
    the->running = &the->fibers[the->ready.back()];
    the->ready.pop_back();
    emulated_switch(&the->home, the->running->stack_pointer);
    if (the->running->state != State::kDone) continue;
    ++the->num_done;
    for (int id = 0; id < kBarriers; ++id) check_barrier(id);
    const uint32_t first = (the->running - the->fibers.data()) / 32 * 32;
    for (uint32_t i = first; i < std::min(first + 32, the->size); ++i) {
      if (the->fibers[i].state == State::kAtWarp) check_lane(i);
    }
  }
  if (the->num_done != the->size) fail("%s: threads wait for others that do not come", the->name);
}

}  // namespace

uint32_t draw(uint32_t end) {
  static const uint64_t seed = std::stoull(setting("SEED", "0"));
  static std::atomic<uint64_t> num_threads{0};
  thread_local uint64_t state = (seed * 1000 + ++num_threads) * 0x9e3779b97f4a7c15u;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (state >> 32) * end >> 32;
}

void run_kernel(const Kernel& kernel, const char* name, const char* params, Size grid, Size block,
                uint32_t dynamic_shared) {
  if (!the) the.reset(new Block);
  the->kernel = &kernel;
  the->name = name;
  the->size = block.x * block.y * block.z;
  the->shared.resize(kernel.shared_bytes + dynamic_shared + 256);
  char* const shared = &the->shared[256 - reinterpret_cast<uintptr_t>(the->shared.data()) % 256];
  std::vector<uint32_t> order(grid.x * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0);
  for (uint32_t i = order.size(); !kernel.is_ordered && i > 1; --i) std::swap(order[i - 1], order[draw(i)]);
  for (const uint32_t number : order) {
    // Of what a block has not written, it must not depend.
    std::memset(shared, 0xa5, kernel.shared_bytes + dynamic_shared);
    const uint32_t first = draw(the->size);
    for (uint32_t n = 0; n < the->size; ++n) {
      const uint32_t i = (first + n) % the->size;
      Thread& thread = the->fibers[i].thread;
      thread = {&device, params, shared, {i % block.x, i / block.x % block.y, i / block.x / block.y},
                {block.x, block.y, block.z},
                {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y},
                {grid.x, grid.y, grid.z}, i % 32};
      if (!kernel.cooperates) kernel.run(&thread);
    }
    if (kernel.cooperates) run_block();
  }
}

}  // namespace emulated
