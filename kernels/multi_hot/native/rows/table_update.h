// Gradients of the touched rows of a table, and optimizers that change these rows in place.
//
// Shapes: B rows, V num_tokens, H units, n slots of touched rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../parallel.h"
#include "../row_sum.h"
#include "../rules.h"
#include "touched.h"

namespace multi_hot {

// What the update of a step is told, as float32 [5] in this order.
struct Scalars {
  float rate;      // the learning rate; Adam's with its bias correction
  float grow_m;    // 1 - beta_1
  float grow_v;    // 1 - beta_2
  float epsilon;
  float factor;    // of the gradients: clipping, and the loss scale's inverse
};

template <class Element>
void prefetch_row(const Element* row, int64_t units) {
  const char* bytes = reinterpret_cast<const char*>(row);
  const int64_t length = units * static_cast<int64_t>(sizeof(Element));
  for (int64_t byte = 0; byte < length; byte += kCacheLineBytes) __builtin_prefetch(bytes + byte, 1);
  __builtin_prefetch(bytes + length - 1, 1);
}

// The sum of products of two vectors, in the processor's own width: the compiler would have to keep
// the order of the summands, each of which would wait for the one before.
inline float inner_product(const float* a, const float* b, int64_t count) {
  typename Vector<kLanes>::Floats wide = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    wide += load_columns<kLanes>(a + i) * load_columns<kLanes>(b + i);
  }
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += wide[lane];
  for (; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// A row of the table. One of bfloat16 is rounded up or down by chance, in proportion to how near
// either is (stochastic rounding: Gupta et al., "Deep Learning with Limited Numerical Precision",
// 2015), so that steps below its precision count on average. The chance follows from the id and the
// step: it is the same in every run, whatever the number of threads.
template <class Element>
class Row;
template <>
class Row<float> {
 public:
  Row(float* table, int64_t id, int64_t units, int64_t) : row_(table + id * units) {}
  void subtract(int64_t c, float change) const { row_[c] -= change; }

 private:
  float* __restrict row_;
};
template <>
class Row<Bfloat16> {
 public:
  Row(Bfloat16* table, int64_t id, int64_t units, int64_t step)
      : row_(&table[id * units].bits),
        seed_(rounding_seed(step, id)) {}
  void subtract(int64_t c, float change) const {
    uint32_t word = static_cast<uint32_t>(row_[c]) << 16;
    float number;
    std::memcpy(&number, &word, sizeof(number));
    number -= change;
    std::memcpy(&word, &number, sizeof(word));
    row_[c] = static_cast<uint16_t>((word + (scrambled(seed_ + c) & 0xffff)) >> 16);
  }

 private:
  uint16_t* __restrict row_;
  uint32_t seed_;
};

// w -= rate g
template <class Element>
struct Sgd {
  Element* table;  // [V, H]
  int64_t step;    // counted from 1
  int64_t units;
  Scalars scalars;

  void prefetch(int64_t id) const { prefetch_row(table + id * units, units); }
  void operator()(int64_t id, const float* gradient) const {
    const Row<Element> w(table, id, units, step);
    const float rate = scalars.rate * scalars.factor;
    for (int64_t c = 0; c < units; ++c) w.subtract(c, rate * gradient[c]);
  }
};

// s += mean(g^2) of the row; w -= rate g / sqrt(s + epsilon)
template <class Element>
struct RowAdagrad {
  Element* table;  // [V, H]
  float* sums;     // [V]
  int64_t step;    // counted from 1
  int64_t units;
  Scalars scalars;

  void prefetch(int64_t id) const {
    prefetch_row(table + id * units, units);
    __builtin_prefetch(sums + id, 1);
  }
  void operator()(int64_t id, const float* gradient) const {
    const Row<Element> w(table, id, units, step);
    const float squares = inner_product(gradient, gradient, units);
    const Scalars s = scalars;
    const float rate = adagrad_rate(squares, units, s.factor, sums[id], s.rate, s.epsilon);
    for (int64_t c = 0; c < units; ++c) w.subtract(c, rate * gradient[c]);
  }
};

// Adam as Keras has it, of this row alone.
template <class Element>
struct Adam {
  Element* table;  // [V, H]
  float* m;      // [V, H]
  float* v;      // [V, H]
  int64_t* last;  // [V]: the last step that the row has seen; null where missed steps do not count
  int64_t step;   // counted from 1
  int64_t units;
  Scalars scalars;

  void prefetch(int64_t id) const {
    prefetch_row(table + id * units, units);
    for (const float* slot : {m, v}) prefetch_row(slot + id * units, units);
    if (last != nullptr) __builtin_prefetch(last + id, 1);
  }
  void operator()(int64_t id, const float* gradient) const {
    const Row<Element> w(table, id, units, step);
    float* __restrict first = m + id * units;
    float* __restrict second = v + id * units;
    const Scalars s = scalars;
    for (int64_t c = 0; c < units; ++c) {
      float m_c = first[c], v_c = second[c];
      const float change =
          adam(s.factor * gradient[c], m_c, v_c, s.rate, s.grow_m, s.grow_v, s.epsilon);
      first[c] = m_c;
      second[c] = v_c;
      w.subtract(c, change);
    }
    if (last != nullptr) last[id] = step;
  }
};

// What a row of Adam makes up for: the steps in which its gradient was zero.
//
// In step i after the row's last, m has shrunk to beta_1^i m and v to beta_2^i v, so that the row
// moves by rate_i beta_1^i m / (sqrt(v) u_i + epsilon), with u_i = beta_2^(i/2), which hardly changes
// over some steps. With u_i = u (1 + d_i) and q = sqrt(v) u / (sqrt(v) u + epsilon), the sum over a
// segment of steps is
//   m / (sqrt(v) u + epsilon) * sum over j of (-q)^j * (sum over i of rate_i beta_1^i d_i^j),
// of which kTerms terms are float32's precision. So a row costs the same whatever it missed.
struct CatchUp {
  float* table;  // [V, H]
  float* m;      // [V, H]
  float* v;      // [V, H]
  int64_t* last;  // [V]; 0: a row that was never touched, which has nothing to make up for
  int64_t step;   // the step up to which rows make up
  int64_t units;
  float epsilon;
  const float* rates;    // [R]: of step i at (i - 1) % R
  int64_t num_rates;     // R: no row has missed more steps
  const float* decays;   // [2, R + 1]: beta_1^i and beta_2^i
  const float* centers;  // [S]: u of each segment
  const float* terms;    // [S, kTerms, L]: beta_1^i d_i^j, 0 beyond the steps that count
  int64_t num_segments;  // S
  int64_t length;        // L

  void prefetch(int64_t id) const {
    for (const float* matrix : {table, m, v}) prefetch_row(matrix + id * units, units);
  }
  void operator()(int64_t id) const {
    const int64_t before = last[id], missed = step - before;
    if (before == 0 || missed <= 0) return;
    float* __restrict w = table + id * units;
    float* __restrict first = m + id * units;
    float* __restrict second = v + id * units;
    for (int64_t segment = 0; segment < num_segments; ++segment) {
      const int64_t begin = segment * length, count = std::min(length, missed - begin);
      if (count <= 0) break;
      float sums[kTerms];
      add_up(before + begin, count, terms + segment * kTerms * length, sums);
      const float center = centers[segment], eps = epsilon;
      const float s[kTerms] = {sums[0], sums[1], sums[2], sums[3], sums[4]};  // in registers
      for (int64_t c = 0; c < units; ++c) w[c] -= caught_up(first[c], second[c], center, eps, s);
    }
    const float decay_m = decays[missed], decay_v = decays[num_rates + 1 + missed];
    for (int64_t c = 0; c < units; ++c) {
      first[c] *= decay_m;
      second[c] *= decay_v;
    }
    last[id] = step;
  }

 private:
  // sums[j] = sum over i in [0, count) of terms[j, i] * the rate of step after + i + 1.
  void add_up(int64_t after, int64_t count, const float* terms, float* sums) const {
    std::fill(sums, sums + kTerms, 0.0f);
    while (count > 0) {  // the rates are a ring
      const int64_t from = after % num_rates, run = std::min(count, num_rates - from);
      const float* rate = rates + from;
      for (int j = 0; j < kTerms; ++j) sums[j] += inner_product(rate, terms + j * length, run);
      terms += run;
      after += run;
      count -= run;
    }
  }
};

constexpr int64_t kSlotsAhead = 4;

// Returns the gradient [H] of a slot's row: in `buffer` [H], or where it is a row of dy, that. Rows of
// the index before `end` are read ahead. One copy of the loop serves all optimizers.
__attribute__((noinline)) inline const float* gradient_of(const TouchedIndex& index, int64_t slot,
                                                          int64_t end, const float* dy,
                                                          int64_t units, float* buffer) {
  const int64_t from = index.spans[2 * slot], count = index.spans[2 * slot + 1] - from;
  const int32_t* rows = index.rows + from;
  if (index.weights != nullptr) {
    sum_rows(dy, units, rows, count, end - from, buffer, Weighted{index.weights + from});
    return buffer;
  }
  if (count == 1) return dy + *rows * units;  // as most ids have it
  sum_rows(dy, units, rows, count, end - from, buffer, Unweighted());
  return buffer;
}

// Calls take(slot, id, gradient) for each touched row, from some threads at a time. Each gradient is
// summed in the order of the batch's rows, whatever the number of threads.
template <class Pool, class Prefetch, class Take>
void for_each_gradient(const TouchedIndex& index, const float* dy, int64_t units, Pool& pool,
                       Prefetch prefetch, Take take) {
  const int64_t num = *index.num;
  for_each_block(index.ids, num, pool, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<float> buffer;
    buffer.resize(std::max<size_t>(buffer.size(), units));
    for (int64_t slot = begin; slot < std::min(begin + kSlotsAhead, end); ++slot) {
      prefetch(index.ids[slot]);
    }
    const int64_t rows_end = begin < end ? index.spans[2 * end - 1] : 0;
    for (int64_t slot = begin; slot < end; ++slot) {
      if (slot + kSlotsAhead < end) prefetch(index.ids[slot + kSlotsAhead]);
      take(slot, index.ids[slot],
           gradient_of(index, slot, rows_end, dy, units, buffer.data()));
    }
  });
}

// Writes the gradients of the touched rows to `rows` [n, H]; what lies behind them is left as it is.
// Returns the sum of their squares, in a fixed order.
template <class Pool>
float row_gradients(const TouchedIndex& index, const float* dy, int64_t units, float* rows,
                    Pool& pool) {
  const int64_t num = *index.num;
  for_each_gradient(
      index, dy, units, pool, [](int64_t) {},
      [=](int64_t slot, int64_t, const float* gradient) {
        std::copy_n(gradient, units, rows + slot * units);
      });
  constexpr int64_t kSlotsPerBlock = 256;
  const int64_t num_blocks = (num + kSlotsPerBlock - 1) / kSlotsPerBlock;
  std::vector<double> squares(num_blocks, 0.0);
  parallel_for(pool, num_blocks, [&](int64_t block) {
    const int64_t end = std::min(num, (block + 1) * kSlotsPerBlock) * units;
    double sum = 0;
    for (int64_t i = block * kSlotsPerBlock * units; i < end; ++i) {
      sum += static_cast<double>(rows[i]) * rows[i];
    }
    squares[block] = sum;
  });
  double total = 0;
  for (double part : squares) total += part;
  return static_cast<float>(total);
}

// Updates the touched rows by gradients that are computed on the way: they are never stored.
template <class Pool, class Update>
void update_from_dy(const TouchedIndex& index, const float* dy, int64_t units, const Update& update,
                    Pool& pool) {
  for_each_gradient(
      index, dy, units, pool, [&](int64_t id) { update.prefetch(id); },
      [&](int64_t, int64_t id, const float* gradient) { update(id, gradient); });
}

// Updates the touched rows by their gradients [n, H].
template <class Pool, class Update>
void update_from_rows(const int32_t* ids, int64_t num, const float* rows, int64_t units,
                      const Update& update, Pool& pool) {
  for_each_block(ids, num, pool, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < std::min(begin + kSlotsAhead, end); ++slot) {
      update.prefetch(ids[slot]);
    }
    for (int64_t slot = begin; slot < end; ++slot) {
      if (slot + kSlotsAhead < end) update.prefetch(ids[slot + kSlotsAhead]);
      update(ids[slot], rows + slot * units);
    }
  });
}

// Makes up for the missed steps of the touched rows; with `all`, of every row.
template <class Pool>
void catch_up(const int32_t* ids, int64_t num, int64_t num_tokens, bool all, const CatchUp& row,
              Pool& pool) {
  if (!all) {
    return for_each_block(ids, num, pool, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        if (slot + kSlotsAhead < end) row.prefetch(ids[slot + kSlotsAhead]);
        row(ids[slot]);
      }
    });
  }
  constexpr int64_t kRowsPerBlock = 1024;
  parallel_for(pool, (num_tokens + kRowsPerBlock - 1) / kRowsPerBlock, [&](int64_t block) {
    const int64_t end = std::min(num_tokens, (block + 1) * kRowsPerBlock);
    for (int64_t id = block * kRowsPerBlock; id < end; ++id) row(id);
  });
}

}  // namespace multi_hot
