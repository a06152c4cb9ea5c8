// Random batches through the emulated CUDA kernels, against sums in double precision: some with wrong
// ids or splits, and each in three orders of blocks, warps and lanes, which must give the same bits.
//
//   fuzz SEED CASES
#include "emulation.h"

#include "../../kernels/multi_hot/cuda/kernels.cu"
#include "../../kernels/multi_hot/cuda/row_passes.h"
#include "queue.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

namespace {

using Random = std::mt19937_64;

#define CHECK(condition)                                                                   \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      std::printf("line %d: %s\n", __LINE__, #condition);                                  \
      std::exit(1);                                                                        \
    }                                                                                      \
  } while (false)

int64_t draw(Random& random, int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(random);
}
template <class T>
T one_of(Random& random, std::initializer_list<T> choices) {
  return choices.begin()[draw(random, 0, static_cast<int64_t>(choices.size()) - 1)];
}

struct Batch {
  std::vector<int64_t> ids, splits;
  std::vector<float> weights;
  int num_rows, num_tokens, units;
  bool weighted, unique, legal;
};

Batch draw_batch(Random& random) {
  Batch batch;
  batch.num_tokens = static_cast<int>(
      one_of<int64_t>(random, {1, 2, 7, 31, 255, 256, 257, 4000, 65'535, 70'000}));
  batch.num_rows = static_cast<int>(one_of<int64_t>(random, {0, 1, 2, 5, 9, 40}));
  // Tables of many tokens are narrow, for the time's sake.
  batch.units = static_cast<int>(
      batch.num_tokens > 1000 ? draw(random, 1, 3)
                              : one_of<int64_t>(random, {1, 3, 31, 32, 33, 50, 64, 65, 130, 300}));
  batch.weighted = draw(random, 0, 2) == 0;
  const int64_t longest = one_of<int64_t>(random, {0, 1, 4, 30, 33, 100, 200});
  const int64_t few = std::min<int64_t>(batch.num_tokens, one_of<int64_t>(random, {1, 3, 1 << 20}));
  const bool distinct = draw(random, 0, 1) == 0;
  batch.unique = distinct;
  batch.splits = {0};
  for (int row = 0; row < batch.num_rows; ++row) {
    const size_t begin = batch.ids.size();
    // Now and then more different ids than a warp's table has slots.
    const bool is_long = batch.num_tokens > 3000 && draw(random, 0, 60) == 0;
    const int64_t length = is_long ? 2500 : draw(random, 0, longest);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t id = draw(random, 0, (is_long ? batch.num_tokens : few) - 1);
      const auto own = batch.ids.begin() + static_cast<int64_t>(begin);
      if (distinct && std::find(own, batch.ids.end(), id) != batch.ids.end()) continue;
      batch.ids.push_back(id);
    }
    batch.splits.push_back(static_cast<int64_t>(batch.ids.size()));
  }
  for (int64_t i = draw(random, 0, 3) * 7; i > 0; --i) {
    batch.ids.push_back(one_of<int64_t>(random, {-1, 0, INT32_MAX, 65'535}));
  }
  batch.legal = true;
  const int64_t nnz = batch.splits.back();
  if (draw(random, 0, 7) == 0) {
    batch.legal = false;
    const int64_t wild = one_of<int64_t>(random, {-1, INT32_MAX, INT32_MIN, batch.num_tokens});
    if (nnz > 0 && draw(random, 0, 1) == 0) {
      batch.ids[static_cast<size_t>(draw(random, 0, nnz - 1))] = wild;
    } else {
      batch.splits[static_cast<size_t>(draw(random, 0, batch.num_rows))] = one_of<int64_t>(
          random, {-1, static_cast<int64_t>(batch.ids.size()) + 1, INT32_MAX, INT32_MIN});
    }
  }
  for (size_t i = 0; i < batch.ids.size(); ++i) {
    batch.weights.push_back(static_cast<int64_t>(i) < nnz
                                ? std::normal_distribution<float>()(random)
                                : std::numeric_limits<float>::quiet_NaN());
  }
  return batch;
}

// The low bytes of integers, one after another.
std::vector<char> narrowed(const std::vector<int64_t>& from, size_t bytes) {
  std::vector<char> to(from.size() * bytes);
  for (size_t i = 0; i < from.size(); ++i) std::memcpy(&to[i * bytes], &from[i], bytes);
  return to;
}

template <class T>
std::vector<T> random_matrix(Random& random, int64_t size) {
  std::vector<T> matrix(static_cast<size_t>(size));
  for (T& x : matrix) multi_hot::narrow(std::normal_distribution<float>()(random), &x);
  return matrix;
}

// Whether a result is that sum of terms, added in single precision and rounded once.
bool is_close(double found, double sum, double sum_of_magnitudes, double rounding) {
  return std::abs(found - sum) <= rounding * std::abs(sum) + 3e-6 * sum_of_magnitudes + 1e-7;
}

#include "fuzz_rows.h"

// Three arrays of which one counts; the others hold garbage.
template <class T>
std::vector<T> among_others(const std::vector<T>& own, int step, T garbage) {
  std::vector<T> all(3 * own.size(), garbage);
  std::copy(own.begin(), own.end(), all.begin() + step * own.size());
  return all;
}

template <class T>
void check(Random& random, const char* type, double rounding) {
  const int id_type =
      one_of<int>(random, {multi_hot::kInt32, multi_hot::kUInt16, multi_hot::kInt64});
  const bool wide_splits = draw(random, 0, 1) == 0;
  Batch batch = draw_batch(random);
  if (id_type == multi_hot::kUInt16) {
    // Without those whose ids mean something else in 16 bits; behind the last row they may.
    if (!batch.legal || batch.num_tokens > 65'536) return;
    for (int64_t& id : batch.ids) id = static_cast<uint16_t>(id);
  }
  const size_t id_bytes = id_type == multi_hot::kUInt16 ? 2 : id_type == multi_hot::kInt64 ? 8 : 4;
  const std::vector<char> ids = narrowed(batch.ids, id_bytes);
  const std::vector<char> splits = narrowed(batch.splits, wide_splits ? 8 : 4);
  const int B = batch.num_rows, V = batch.num_tokens, H = batch.units;
  const auto table = random_matrix<T>(random, int64_t{V} * H);
  const auto dy = random_matrix<T>(random, int64_t{B} * H);
  const multi_hot::DeviceSets sets = {ids.data(), splits.data(),
                                      batch.weighted ? batch.weights.data() : nullptr, id_type,
                                      wide_splits, static_cast<int>(batch.ids.size()), B, V};
  // The same batch among others.
  const int step = static_cast<int>(draw(random, 0, 2));
  const auto all_ids = among_others(ids, step, '\x5b'), all_splits = among_others(splits, step, '\x5b');
  const auto all_weights = among_others(batch.weights, step, NAN);
  multi_hot::DeviceSets several = sets;
  several.values = all_ids.data(), several.splits = all_splits.data();
  if (batch.weighted) several.weights = all_weights.data();
  several.step = &step, several.num_steps = 3;
  std::vector<T> y(dy.size()), dw(table.size()), first_y, first_dw;
  const multi_hot::Division division = {one_of<int64_t>(random, {1, 2, 256}),
                                        one_of<int64_t>(random, {1, 4, 8192})};
  const multi_hot::Workspace workspace_of(sets.num_values, V, H, division);
  const size_t words = static_cast<size_t>(workspace_of.size);
  for (int turn = 0; turn < 3; ++turn) {
    // Exactly as large as is asked for, and full of garbage.
    std::vector<int> workspace(words, static_cast<int>(random()));
    std::memset(static_cast<void*>(dw.data()), 0x5a, dw.size() * sizeof(T));
    EmulatedQueue queue = {random()};
    const multi_hot::DeviceSets& own = turn == 2 ? several : sets;
    CHECK(multi_hot::run_forward(queue, type, own, batch.unique, table.data(), H, y.data()).empty());
    CHECK(multi_hot::run_backward(queue, type, own, dy.data(), H, dw.data(), workspace.data(), division)
              .empty());
    if (turn == 0) first_y = y, first_dw = dw;
    CHECK(y.empty() || std::memcmp(y.data(), first_y.data(), y.size() * sizeof(T)) == 0);
    CHECK(std::memcmp(dw.data(), first_dw.data(), dw.size() * sizeof(T)) == 0);
  }
  const auto is_wrong = [&](int row) {
    const int64_t begin = batch.splits[row], end = batch.splits[row + 1];
    if (begin < 0 || end < begin || end > sets.num_values || (row == 0 && begin != 0)) return true;
    return std::any_of(batch.ids.begin() + begin, batch.ids.begin() + end,
                       [&](int64_t id) { return id < 0 || id >= V; });
  };
  std::vector<double> sums(table.size()), magnitudes(table.size());
  bool any_wrong = false;
  for (int row = 0; row < B; ++row) {
    if (is_wrong(row)) {
      any_wrong = true;
      for (int h = 0; h < H; ++h) CHECK(std::isnan(multi_hot::widen(y[row * H + h])));
      continue;
    }
    std::vector<double> own(H), own_magnitudes(H);
    for (int64_t i = batch.splits[row]; i < batch.splits[row + 1]; ++i) {
      const int64_t id = batch.ids[i];
      const auto begin = batch.ids.begin() + batch.splits[row], here = batch.ids.begin() + i;
      if (!batch.weighted && std::find(begin, here, id) != here) continue;
      const double weight = batch.weighted ? batch.weights[i] : 1.0;
      for (int h = 0; h < H; ++h) {
        const double term = weight * multi_hot::widen(table[id * H + h]);
        own[h] += term, own_magnitudes[h] += std::abs(term);
        const double other = weight * multi_hot::widen(dy[row * H + h]);
        sums[id * H + h] += other, magnitudes[id * H + h] += std::abs(other);
      }
    }
    for (int h = 0; h < H; ++h) {
      CHECK(is_close(multi_hot::widen(y[row * H + h]), own[h], own_magnitudes[h], rounding));
    }
  }
  for (size_t i = 0; i < dw.size(); ++i) {
    const double found = multi_hot::widen(dw[i]);
    CHECK(any_wrong ? std::isnan(found) : is_close(found, sums[i], magnitudes[i], rounding));
  }
  std::vector<float> wide(dy.size());
  for (size_t i = 0; i < dy.size(); ++i) wide[i] = multi_hot::widen(dy[i]);
  any_wrong |= batch.splits[0] != 0;  // a batch of no rows has no gradient that could say so
  // Of a batch that is wrong, which ids are touched is not laid down.
  std::vector<int> touched;
  if (!any_wrong) touched.assign(batch.ids.begin(), batch.ids.begin() + batch.splits.back());
  std::sort(touched.begin(), touched.end());
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  check_touched(random, sets, wide, H, any_wrong, touched, sums, magnitudes, division);
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::random_device()();
  const int cases = argc > 2 ? std::atoi(argv[2]) : 100;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Random random(seed);
  for (int i = 0; i < cases; ++i) {
    switch (draw(random, 0, 3)) {
      case 0: check<multi_hot::BFloat16>(random, "bf16", 0x1p-8); break;
      case 1: check<multi_hot::Float16>(random, "f16", 0x1p-10); break;
      default: check<multi_hot::Float>(random, "f32", 0x1p-23);
    }
  }
  std::puts("all passed");
  return 0;
}
