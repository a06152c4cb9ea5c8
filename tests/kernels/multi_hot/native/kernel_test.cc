// The kernels alone, without XLA: random and hostile inputs, with one thread and with several. Their numbers
// are those of the contract's tests.
// Built and run under sanitizers by test_sanitizers.py; prints the seed first and the fault last.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "product.h"

using namespace multi_hot;

namespace {

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);  \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

class Pool {
 public:
  // None is what XLA reports of a pool that it does not have.
  explicit Pool(int threads) : num_threads_(threads) {
    for (int i = 1; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  int64_t num_threads() const { return num_threads_; }
  void Schedule(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }

 private:
  void serve() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }
  const int64_t num_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};

using Random = std::mt19937_64;

int64_t draw(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

struct Input {
  std::vector<int32_t> values;
  std::vector<int64_t> splits;
  int64_t num_tokens, units;
  std::vector<float> weights;  // one for each value, where they are weighted
  bool weighted;

  Sets sets(bool unique) const {
    return {values.data(), static_cast<int64_t>(values.size()), splits.data(),
            static_cast<int64_t>(splits.size()) - 1, num_tokens, unique,
            weighted ? weights.data() : nullptr};
  }
};

Input draw_input(Random& random, bool repeat) {
  Input input;
  input.num_tokens = draw(random, 1, 60);
  input.units = draw(random, 1, draw(random, 0, 9) ? 70 : 300);
  input.splits = {0};
  const int64_t num_rows = draw(random, 0, 70);
  for (int64_t row = 0; row < num_rows; ++row) {
    std::set<int32_t> seen;
    const int64_t length = draw(random, 0, 3) ? draw(random, 0, 12) : 0;
    for (int64_t i = 0; i < length; ++i) {
      const auto id = static_cast<int32_t>(draw(random, 0, input.num_tokens - 1));
      if (seen.insert(id).second || repeat) input.values.push_back(id);
    }
    input.splits.push_back(static_cast<int64_t>(input.values.size()));
  }
  for (int64_t spare = draw(random, 0, 5); spare > 0; --spare) {
    input.values.push_back(static_cast<int32_t>(draw(random, INT32_MIN, INT32_MAX)));
  }
  input.weighted = draw(random, 0, 1);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < input.values.size(); ++i) input.weights.push_back(normal(random));
  return input;
}

// What the kernels must find out by themselves.
bool is_valid(const Input& input) {
  const auto& splits = input.splits;
  if (splits[0] != 0 || !std::is_sorted(splits.begin(), splits.end())) return false;
  if (splits.back() > static_cast<int64_t>(input.values.size())) return false;
  return std::all_of(input.values.begin(), input.values.begin() + splits.back(),
                     [&](int32_t id) { return 0 <= id && id < input.num_tokens; });
}

std::vector<float> widened(const std::vector<Bfloat16>& halves) {
  std::vector<float> floats(halves.size());
  for (size_t i = 0; i < halves.size(); ++i) floats[i] = load_columns<1>(&halves[i])[0];
  return floats;
}

}  // namespace

#include "table_test.h"

namespace {

// y and dW for any number of threads and chunks; nothing where the input has a fault.
std::vector<std::vector<float>> run(const Input& input, bool unique,
                                    const std::vector<float>& table, const std::vector<float>& dy,
                                    int64_t chunks, Pool& pool) {
  const Sets sets = input.sets(unique);
  std::vector<float> y(sets.num_rows * input.units), dw(sets.num_tokens * input.units);
  std::vector<int32_t> ends(chunks * sets.num_tokens);
  std::vector<uint16_t> rows(sets.num_values + TransposedIndex::kSlack);
  std::vector<float> placed(sets.num_values);
  const TransposedIndex index = {ends.data(), chunks, rows.data(), placed.data()};
  const int64_t H = input.units, buckets = chunks < 4 ? 1 : 8;
  std::vector<float> by_rows;
  const std::function<void()> kernels[] = {
      [&] { forward(sets, table.data(), H, y.data(), pool); },
      [&] { backward(sets, dy.data(), H, index, dw.data(), pool); },
      [&] { by_rows = touched_gradient(sets, dy, H, chunks, buckets, pool); }};
  std::set<std::string> faults;
  for (const auto& kernel : kernels) {
    try {
      kernel();
      faults.insert("");
    } catch (const std::invalid_argument& wrong) {
      faults.insert(wrong.what());
    }
  }
  CHECK(faults.size() == 1 && faults.begin()->empty() == is_valid(input));
  if (!is_valid(input)) return {};
  // A table of 16 bits gives what the same numbers in float32 give.
  std::vector<Bfloat16> halves(table.size());
  for (size_t i = 0; i < table.size(); ++i) halves[i].bits = bits_of(table[i]) >> 16;
  std::vector<float> of_halves(y.size()), of_floats(y.size());
  forward(sets, halves.data(), H, of_halves.data(), pool);
  forward(sets, widened(halves).data(), H, of_floats.data(), pool);
  CHECK(of_halves == of_floats);
  return {y, dw, by_rows};
}

void check_threads(Random& random, std::vector<Pool*> pools) {
  const bool repeat = draw(random, 0, 1);
  const Input input = draw_input(random, repeat);
  const Sets sets = input.sets(!repeat);
  CHECK(is_valid(input));
  const int64_t B = sets.num_rows, V = sets.num_tokens, H = input.units;
  std::normal_distribution<float> normal;
  std::vector<float> table(V * H), dy(B * H);
  for (auto* matrix : {&table, &dy}) {
    for (float& element : *matrix) element = normal(random);
  }
  const auto got = run(input, !repeat, table, dy, 1, *pools[0]);
  CHECK(got[1] == got[2]);  // the same sums in the same order
  // The same bits from any number of threads and chunks.
  for (Pool* pool : pools) {
    CHECK(run(input, !repeat, table, dy, draw(random, 1, 9), *pool) == got);
  }
}

// Anything at all: a fault is named, or the kernels run; the sanitizers watch.
void check_hostile(Random& random, Pool& pool) {
  Input input = draw_input(random, true);
  const auto wild = [&] {
    const int64_t choices[] = {-1, 0, 1, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN,
                               input.num_tokens, static_cast<int64_t>(input.values.size()) + 1};
    return choices[draw(random, 0, 8)];
  };
  for (int64_t i = draw(random, 0, 2); i > 0; --i) {
    if (draw(random, 0, 1)) {
      input.splits[draw(random, 0, static_cast<int64_t>(input.splits.size()) - 1)] = wild();
    } else if (!input.values.empty()) {
      input.values[draw(random, 0, static_cast<int64_t>(input.values.size()) - 1)] =
          static_cast<int32_t>(wild());
    }
  }
  const std::vector<float> table(input.num_tokens * input.units, 1.0f);
  const std::vector<float> dy((input.splits.size() - 1) * input.units, 1.0f);
  // The promise of unique rows is often false here: sums may be wrong then, memory must not be.
  run(input, draw(random, 0, 1), table, dy, draw(random, 1, 4), pool);
}

// A block that throws, or a pool that takes no more tasks: the first exception arrives, and no block
// runs after it.
void check_throwing_blocks(Random& random, Pool& pool) {
  struct Limited {
    Pool& pool;
    int64_t num_tasks;

    int64_t num_threads() const { return pool.num_threads(); }
    void Schedule(std::function<void()> task) {
      if (num_tasks-- == 0) throw std::runtime_error("no more tasks");
      pool.Schedule(std::move(task));
    }
  };
  const int64_t num_blocks = draw(random, 0, 40);
  const int64_t throwing = draw(random, 0, 40);
  const int64_t num_tasks = draw(random, 0, 5);
  const int64_t num_helpers = std::min(pool.num_threads(), num_blocks) - 1;
  Limited limited{pool, num_tasks};
  std::atomic<int64_t> running{0};
  std::vector<int> calls(num_blocks);
  std::string caught;
  try {
    parallel_for(limited, num_blocks, [&](int64_t block) {
      ++running;
      ++calls[block];
      if (block % 3 == 0) std::this_thread::yield();
      --running;
      if (block >= throwing) throw std::runtime_error("a block");
    });
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  CHECK(running == 0);
  if (num_tasks >= num_helpers) CHECK(caught == (throwing < num_blocks ? "a block" : ""));
  else CHECK(!caught.empty());
  for (const int count : calls) CHECK(count == 1 || (count == 0 && !caught.empty()));
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::random_device()();
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 150;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Random random(seed);
  Pool none(0), one(1), two(2), five(5);
  for (int round = 0; round < rounds; ++round) {
    check_threads(random, {&one, &two, &five, &none});
    check_updates(random, {&one, &two, &five});
  }
  for (int round = 0; round < 10 * rounds; ++round) check_hostile(random, two);
  for (int round = 0; round < 10 * rounds; ++round) check_throwing_blocks(random, five);
  std::puts("all passed");
  return 0;
}
