// Runs a kernel's blocks, one after another in an order that follows from the seed. Threads that wait for each
// other are fibers of the calling thread, in such an order too.
#include <algorithm>
#include <atomic>
#include <numeric>

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
enum class State { kReady, kWaiting, kDone };

struct Fiber {
  Thread thread;
  void* stack_pointer;
  std::unique_ptr<char[]> stack;
  State state;
  int kind;                    // what it waits for; see kernel.h
  uint32_t who, count, given;
  Lanes taken;
};

// One block at a time, of this host thread.
struct Block {
  std::vector<Fiber> fibers = std::vector<Fiber>(1024);
  std::vector<Fiber*> ready, arrived;
  uint32_t size;
  Fiber* running;
  void* home;
  const Kernel* kernel;
  std::string name;
  std::vector<char> shared;
};
thread_local Block the;

void leave() { emulated_switch(&the.running->stack_pointer, the.home); }

void begin() {
  the.kernel->run(&the.running->thread);
  the.running->state = State::kDone;
  leave();
}

void wake(Fiber& fiber) {
  fiber.state = State::kReady;
  the.ready.push_back(&fiber);
}

// Lets a thread that waits go on, with those that it waits for, once all of them that still run have arrived at
// the same operation.
void check(const Fiber& waits) {
  const bool is_barrier = waits.kind == 'b';
  const uint32_t first = is_barrier ? 0 : (&waits - the.fibers.data()) / 32 * 32;
  const uint32_t end = is_barrier ? the.size : std::min(first + 32, the.size);
  Lanes taken = {};
  the.arrived.clear();
  for (uint32_t i = first; i < end; ++i) {
    Fiber& other = the.fibers[i];
    if (other.state == State::kDone || !(is_barrier || waits.who >> (i - first) & 1)) continue;
    if (other.state == State::kWaiting && other.kind == waits.kind && other.who == waits.who) {
      the.arrived.push_back(&other);
      taken.members += is_barrier ? 1 : 1u << (i - first);
      taken.value[is_barrier ? 0 : i - first] += other.given;
    } else if (waits.count == 0) {
      return;
    }
  }
  if (the.arrived.size() < waits.count) return;
  for (Fiber* const fiber : the.arrived) {
    fiber->taken = taken;
    wake(*fiber);
  }
}

void make_ready(Fiber& fiber) {
  if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
  void** top = reinterpret_cast<void**>(fiber.stack.get() + kStackBytes) - 1;  // aligned as after a call
  *--top = reinterpret_cast<void*>(begin);
  std::fill_n(top -= 6, 6, nullptr);
  fiber.stack_pointer = top;
  wake(fiber);
}

void run_block() {
  the.ready.clear();
  for (uint32_t i = 0; i < the.size; ++i) make_ready(the.fibers[i]);
  while (!the.ready.empty()) {
    std::swap(the.ready[draw(the.ready.size())], the.ready.back());
    the.running = the.ready.back();
    the.ready.pop_back();
    emulated_switch(&the.home, the.running->stack_pointer);
    for (uint32_t i = 0; the.ready.empty() && i < the.size; ++i) {
      // Threads that are done are waited for no longer.
      if (the.fibers[i].state == State::kWaiting) check(the.fibers[i]);
    }
  }
  const auto is_done = [](const Fiber& fiber) { return fiber.state == State::kDone; };
  if (!std::all_of(the.fibers.begin(), the.fibers.begin() + the.size, is_done)) {
    fail(the.name + ": threads wait for others that do not come");
  }
}

}  // namespace

API const Lanes* emulated_meet(Thread* thread, int kind, uint32_t who, uint32_t count, uint32_t value) {
  Fiber& own = *the.running;
  own.state = State::kWaiting;
  own.kind = kind, own.who = who, own.count = count, own.given = value;
  if (kind != 'b' && !(who >> thread->lane & 1)) fail(the.name + ": a lane is not in the mask that it names");
  check(own);
  leave();
  return &own.taken;
}

API void emulated_interrupt(Thread*) {
  if (!the.kernel->cooperates || draw(4) != 0) return;
  wake(*the.running);
  leave();
}

uint32_t draw(uint32_t end) {
  static const uint64_t seed = std::stoull(setting("SEED", "0"));
  static std::atomic<uint64_t> num_threads{0};
  thread_local uint64_t state = (seed * 1000 + ++num_threads) * 0x9e3779b97f4a7c15u;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (state >> 32) * end >> 32;
}

void run_kernel(const Kernel& kernel, const std::string& name, const char* params, Size grid, Size block,
                uint32_t dynamic_shared) {
  the.kernel = &kernel;
  the.name = name;
  the.size = block.x * block.y * block.z;
  the.shared.resize(kernel.shared_bytes + dynamic_shared + 256);
  char* const shared = &the.shared[256 - reinterpret_cast<uintptr_t>(the.shared.data()) % 256];
  std::vector<uint32_t> order(grid.x * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0);
  for (uint32_t i = order.size(); !kernel.is_ordered && i > 1; --i) std::swap(order[i - 1], order[draw(i)]);
  for (const uint32_t number : order) {
    // Of what a block has not written, it must not depend.
    std::memset(shared, 0xa5, kernel.shared_bytes + dynamic_shared);
    const uint32_t first = draw(the.size);
    for (uint32_t n = 0; n < the.size; ++n) {
      const uint32_t i = (first + n) % the.size;
      Thread& thread = the.fibers[i].thread;
      thread = {params, shared, {i % block.x, i / block.x % block.y, i / block.x / block.y},
                {block.x, block.y, block.z},
                {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y},
                {grid.x, grid.y, grid.z}, i % 32};
      if (!kernel.cooperates) kernel.run(&thread);
    }
    if (kernel.cooperates) run_block();
  }
}

}  // namespace emulated
