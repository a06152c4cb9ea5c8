// What this machine can do for the layer: forward, transposed index, backward, and backward fused
// with Adam. A measure for the kernels, used by nothing else, so it may do what they cannot: rows
// padded to whole cache lines, threads that never sleep, no checks, 32-bit splits.
//
//   limit VALUES SPLITS NUM_TOKENS UNITS NUM_THREADS NUM_REPEATS
//
// VALUES and SPLITS are files of raw int32: the ids of all rows, and where the rows begin, B + 1.
// Rows must hold no id twice. Prints the times in milliseconds as one JSON object.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr int kLanes = 16;  // one cache line; compilers split it where vectors are narrower
typedef float Vec __attribute__((vector_size(64)));
constexpr int kPrefetchRows = 12;
constexpr int kStepsPerRepeat = 20;

// Spins, then lets others run: on a busy machine a thread that spins keeps the awaited one out.
template <class Condition>
void wait_until(Condition condition) {
  for (int spins = 0; !condition(); ++spins) {
    if (spins > 4000) std::this_thread::yield();
  }
}

// Threads that do not sleep between tasks: waking one costs as much as a tenth of a step.
class Team {
 public:
  explicit Team(int size) : size_(size) {
    for (int i = 1; i < size; ++i) threads_.emplace_back([this, i] { serve(i); });
  }
  ~Team() {
    run([](int) {}, true);
    for (auto& thread : threads_) thread.join();
  }
  // Calls task(0) ... task(size - 1), one on each thread.
  void run(const std::function<void(int)>& task, bool stop = false) {
    task_ = &task;
    stop_ = stop;
    running_.store(size_ - 1, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    task(0);
    wait_until([this] { return running_.load(std::memory_order_acquire) == 0; });
  }
  int size() const { return size_; }

 private:
  void serve(int index) {
    for (int64_t seen = 0;; ++seen) {
      wait_until([&] { return generation_.load(std::memory_order_acquire) != seen; });
      const bool stop = stop_;
      (*task_)(index);
      running_.fetch_sub(1, std::memory_order_release);
      if (stop) return;
    }
  }
  const int size_;
  const std::function<void(int)>* task_ = nullptr;
  bool stop_ = false;
  std::atomic<int64_t> generation_{0};
  std::atomic<int> running_{0};
  std::vector<std::thread> threads_;
};

struct Matrix {
  int64_t rows, vectors;  // of 16 columns each, the last padded with zeros
  Vec* data;

  Matrix(int64_t rows, int64_t columns)
      : rows(rows), vectors((columns + kLanes - 1) / kLanes),
        data(static_cast<Vec*>(std::aligned_alloc(64, rows * vectors * sizeof(Vec)))) {
    std::memset(static_cast<void*>(data), 0, rows * vectors * sizeof(Vec));
  }
  ~Matrix() { std::free(data); }
  Vec* row(int64_t i) const { return data + i * vectors; }
};

template <int K, class Index, class Finish>
inline void sum_rows(const Matrix& matrix, const Index* begin, const Index* end, Finish finish) {
  Vec sums[K] = {};
  for (const Index* i = begin; i != end; ++i) {
    const Vec* row = matrix.data + static_cast<int64_t>(*i) * K;
    if (end - i > kPrefetchRows) {
      const Vec* ahead = matrix.data + static_cast<int64_t>(i[kPrefetchRows]) * K;
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) __builtin_prefetch(ahead + k);
    }
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) sums[k] += row[k];
  }
  finish(sums);
}

template <class T>
std::vector<T> read(const char* path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path);
    std::exit(2);
  }
  std::vector<T> all(static_cast<size_t>(file.tellg()) / sizeof(T));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(all.data()), all.size() * sizeof(T));
  return all;
}

struct Layer {
  std::vector<int32_t> values, splits;
  int64_t num_rows, num_tokens;
  Matrix table, dy, y, dw, first_moment, second_moment;
  std::vector<int32_t> starts, rows, row_bounds, id_bounds;
  std::vector<std::vector<int32_t>> cursors;

  Layer(const char* values_path, const char* splits_path, int64_t V, int64_t H, int threads)
      : values(read<int32_t>(values_path)), splits(read<int32_t>(splits_path)),
        num_rows(static_cast<int64_t>(splits.size()) - 1), num_tokens(V), table(V, H),
        dy(num_rows, H), y(num_rows, H), dw(V, H), first_moment(V, H), second_moment(V, H),
        starts(V + 1), rows(values.size()), row_bounds(threads + 1), id_bounds(threads + 1),
        cursors(threads, std::vector<int32_t>(V)) {
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    for (Matrix* matrix : {&table, &dy}) {
      for (int64_t row = 0; row < matrix->rows; ++row) {
        float* columns = reinterpret_cast<float*>(matrix->row(row));
        for (int64_t column = 0; column < H; ++column) columns[column] = normal(random);
      }
    }
    split_evenly(splits, row_bounds);
  }

  // bounds: where each thread begins, so that all have about the same number of entries.
  static void split_evenly(const std::vector<int32_t>& ends, std::vector<int32_t>& bounds) {
    const int64_t parts = static_cast<int64_t>(bounds.size()) - 1, total = ends.back();
    for (int64_t i = 0; i <= parts; ++i) {
      const int64_t target = total * i / parts;
      bounds[i] = static_cast<int32_t>(std::lower_bound(ends.begin(), ends.end(), target) - ends.begin());
    }
    bounds[parts] = static_cast<int32_t>(ends.size()) - 1;
  }

  template <int K>
  void forward(Team& team) {
    team.run([&](int t) {
      for (int64_t b = row_bounds[t]; b < row_bounds[t + 1]; ++b) {
        sum_rows<K>(table, &values[splits[b]], &values[splits[b + 1]], [&](Vec* sums) {
          for (int k = 0; k < K; ++k) y.row(b)[k] = sums[k];
        });
      }
    });
  }

  void transpose(Team& team) {
    const int T = team.size();
    team.run([&](int t) {
      std::fill(cursors[t].begin(), cursors[t].end(), 0);
      for (int64_t i = splits[row_bounds[t]]; i < splits[row_bounds[t + 1]]; ++i) {
        ++cursors[t][values[i]];
      }
    });
    int32_t total = 0;
    for (int64_t id = 0; id < num_tokens; ++id) {
      starts[id] = total;
      for (int t = 0; t < T; ++t) {
        const int32_t count = cursors[t][id];
        cursors[t][id] = total;
        total += count;
      }
    }
    starts[num_tokens] = total;
    team.run([&](int t) {
      for (int32_t b = row_bounds[t]; b < row_bounds[t + 1]; ++b) {
        for (int64_t i = splits[b]; i < splits[b + 1]; ++i) rows[cursors[t][values[i]]++] = b;
      }
    });
    split_evenly(starts, id_bounds);
  }

  template <int K>
  void backward(Team& team) {
    team.run([&](int t) {
      for (int64_t id = id_bounds[t]; id < id_bounds[t + 1]; ++id) {
        sum_rows<K>(dy, &rows[starts[id]], &rows[starts[id + 1]], [&](Vec* sums) {
          for (int k = 0; k < K; ++k) dw.row(id)[k] = sums[k];
        });
      }
    });
  }

  // Adam with Keras's defaults; the bias corrections are constants of a step.
  template <int K>
  void backward_adam(Team& team) {
    const float rate = 1e-3f, beta_1 = 0.9f, beta_2 = 0.999f, epsilon = 1e-7f;
    team.run([&](int t) {
      for (int64_t id = id_bounds[t]; id < id_bounds[t + 1]; ++id) {
        sum_rows<K>(dy, &rows[starts[id]], &rows[starts[id + 1]], [&](Vec* sums) {
          for (int k = 0; k < K; ++k) {
            Vec& m = first_moment.row(id)[k];
            Vec& v = second_moment.row(id)[k];
            m += (sums[k] - m) * (1 - beta_1);
            v += (sums[k] * sums[k] - v) * (1 - beta_2);
            Vec root;
#if defined(__AVX512F__)
            root = reinterpret_cast<Vec>(_mm512_sqrt_ps(reinterpret_cast<__m512>(v)));
#else
            for (int lane = 0; lane < kLanes; ++lane) root[lane] = std::sqrt(v[lane]);
#endif
            table.row(id)[k] -= rate * m / (root + epsilon);
          }
        });
      }
    });
  }
};

double median(std::vector<double> times) {
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

// Calls `step` kStepsPerRepeat times in a row; returns milliseconds per call, the median of repeats.
// In a row, as the compiled programs that this is compared with run them: on a busy machine some
// steps are interrupted, and they count on both sides.
template <class Step>
double measure(int repeats, Step step) {
  std::vector<double> times;
  for (int repeat = -1; repeat < repeats; ++repeat) {  // the first one warms up
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kStepsPerRepeat; ++i) step();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    if (repeat >= 0) times.push_back(took.count() / kStepsPerRepeat);
  }
  return median(times);
}

template <int K>
void measure_all(Layer& layer, int threads, int repeats) {
  Team team(threads);
  const auto forward = [&] { layer.forward<K>(team); };
  const auto transpose = [&] { layer.transpose(team); };
  const auto backward = [&] { layer.backward<K>(team); };
  const auto backward_adam = [&] { layer.backward_adam<K>(team); };
  const double layer_ms = measure(repeats, [&] { forward(), transpose(), backward(); });
  const double layer_adam_ms = measure(repeats, [&] { forward(), transpose(), backward_adam(); });
  std::printf("{\"layer_ms\": %.4f, \"layer_adam_ms\": %.4f, ", layer_ms, layer_adam_ms);
  std::printf("\"forward_ms\": %.4f, \"transpose_ms\": %.4f, ", measure(repeats, forward),
              measure(repeats, transpose));
  std::printf("\"backward_ms\": %.4f, \"backward_adam_ms\": %.4f, ", measure(repeats, backward),
              measure(repeats, backward_adam));
  std::printf("\"threads\": %d, \"repeats\": %d, \"steps_per_repeat\": %d}\n", threads, repeats,
              kStepsPerRepeat);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) {
    std::fprintf(stderr, "usage: limit VALUES SPLITS NUM_TOKENS UNITS NUM_THREADS NUM_REPEATS\n");
    return 2;
  }
  const int threads = std::atoi(argv[5]), repeats = std::atoi(argv[6]);
  Layer layer(argv[1], argv[2], std::atoll(argv[3]), std::atoll(argv[4]), threads);
  switch (layer.table.vectors) {
    case 1: measure_all<1>(layer, threads, repeats); break;
    case 2: measure_all<2>(layer, threads, repeats); break;
    case 3: measure_all<3>(layer, threads, repeats); break;
    case 4: measure_all<4>(layer, threads, repeats); break;
    case 8: measure_all<8>(layer, threads, repeats); break;
    default: std::fprintf(stderr, "UNITS must be at most 64, or 113 to 128\n"); return 2;
  }
  return 0;
}
