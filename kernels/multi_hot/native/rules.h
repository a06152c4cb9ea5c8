// The rules of the optimizers of touched rows, for g++ and NVRTC alike. table_rules.py has them as
// operations of XLA.
//
// `Lanes` are what a row's columns are shared by: the one thread of a CPU (native/table_update.h), or
// the 32 lanes of a GPU's warp (cuda/update.h).
#pragma once

#ifdef __CUDACC_RTC__  // NVRTC has no headers
#define MULTI_HOT_RULE __device__ inline
// Of a loop over columns: unrolled, it would take more registers.
#define MULTI_HOT_LOOP _Pragma("unroll 1")
#else
#include <cmath>
#define MULTI_HOT_RULE inline
#define MULTI_HOT_LOOP
#endif

namespace multi_hot {

using Int64 = long long;

union Word {
  float number;
  unsigned bits;
};
MULTI_HOT_RULE unsigned bits_of(float number) { return Word{number}.bits; }
MULTI_HOT_RULE float number_of(unsigned bits) {
  Word word;
  word.bits = bits;
  return word.number;
}

// The upper half of a float32.
struct Bfloat16 {
  unsigned short bits;
};

// In the order of `registry.RowOptimizer`.
enum RowOptimizer : int { kSgd, kRowAdagrad, kLazyAdam, kExactAdam };

// Numbers that look random, "lowbias32" of Wellons, "Prospecting for Hash Functions", 2018.
MULTI_HOT_RULE unsigned scrambled(unsigned x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// A row of bfloat16 is rounded up or down by chance, in proportion to how near either is (stochastic
// rounding: Gupta et al., "Deep Learning with Limited Numerical Precision", 2015), so that steps below
// its precision count on average. The chance follows from the id and the step: it is the same in every
// run, whatever the number of threads.
MULTI_HOT_RULE unsigned rounding_seed(Int64 step, Int64 id) {
  return scrambled(scrambled(static_cast<unsigned>(step)) + static_cast<unsigned>(id));
}
MULTI_HOT_RULE void subtract(float change, unsigned, int, float& from) { from -= change; }
MULTI_HOT_RULE void subtract(float change, unsigned seed, int column, Bfloat16& from) {
  const float number = number_of(static_cast<unsigned>(from.bits) << 16) - change;
  const unsigned chance = scrambled(seed + static_cast<unsigned>(column)) & 0xffffu;
  // A GPU's NaN is 0x7fffffff, to which nothing may be added.
  from.bits = static_cast<unsigned short>(
      number != number ? 0x7fc0u : (bits_of(number) + chance) >> 16);
}

// A table and what its optimizer keeps of it.
struct Table {
  void* rows = nullptr;  // [V, H], float32 or Bfloat16
  int num_tokens = 0;    // V
  int units = 0;         // H
  float* slots[2] = {};  // Adagrad's sums [V]; Adam's moments [V, H]
  // Of exact Adam:
  Int64* last = nullptr;   // [V], the last step that the row has seen; 0: none
  float* rates = nullptr;  // [R], of step i at (i - 1) % R
  int num_rates = 0;       // R
};

// An update of touched rows.
struct Update {
  Table table;
  int kind;  // a RowOptimizer
  float grow_m, grow_v, epsilon;  // 1 - beta_1 and 1 - beta_2
  // Of the step:
  Int64 step;    // counted from 1
  float rate;    // the learning rate; Adam's with its bias correction
  float factor;  // of the gradients: clipping
};

// Keeps the rate of a step, by which rows of exact Adam make up for it.
MULTI_HOT_RULE void keep_rate(const Update& update) {
  if (update.kind != kExactAdam) return;
  update.table.rates[(update.step - 1) % update.table.num_rates] = update.rate;
}

// Changes a row of the table, and what belongs to it, by its gradient [H].
template <class Lanes, class Element>
MULTI_HOT_RULE void update_row(const Update& update, Int64 id, const float* gradient) {
  const Table& table = update.table;
  const int units = table.units;
  const Int64 place = id * units;
  Element* __restrict row = static_cast<Element*>(table.rows) + place;
  const unsigned seed = rounding_seed(update.step, id);
  const float factor = update.factor, epsilon = update.epsilon;
  float rate = update.rate;
  if (update.kind == kLazyAdam || update.kind == kExactAdam) {  // as Keras has it
    const float grow_m = update.grow_m, grow_v = update.grow_v;
    float* __restrict first = table.slots[0] + place;
    float* __restrict second = table.slots[1] + place;
    MULTI_HOT_LOOP
    for (int c = Lanes::first(); c < units; c += Lanes::kCount) {
      const float g = factor * gradient[c];
      const float m = first[c] + (g - first[c]) * grow_m;
      const float v = second[c] + (g * g - second[c]) * grow_v;
      first[c] = m;
      second[c] = v;
      subtract(m * rate / (sqrtf(v) + epsilon), seed, c, row[c]);
    }
    if (update.kind == kExactAdam && Lanes::first() == 0) table.last[id] = update.step;
    return;
  }
  rate *= factor;
  if (update.kind == kRowAdagrad) {  // one sum for the row, of the mean squares of its gradients
    const float squares = Lanes::sum_of_squares(gradient, units);
    if (Lanes::first() == 0) {
      float& sum = table.slots[0][id];
      sum += factor * factor * squares / static_cast<float>(units);
      rate /= sqrtf(sum + epsilon);
    }
    rate = Lanes::of_first(rate);
  }
  MULTI_HOT_LOOP
  for (int c = Lanes::first(); c < units; c += Lanes::kCount) {
    subtract(rate * gradient[c], seed, c, row[c]);
  }
}

constexpr int kTerms = 5;

// What rows of exact Adam make up for: the steps in which their gradients were zero.
//
// In step i after the row's last, m has shrunk to beta_1^i m and v to beta_2^i v, so that the row
// moves by rate_i beta_1^i m / (sqrt(v) u_i + epsilon), with u_i = beta_2^(i/2), which hardly changes
// over some steps. With u_i = u (1 + d_i) and q = sqrt(v) u / (sqrt(v) u + epsilon), the sum over a
// segment of steps is
//   m / (sqrt(v) u + epsilon) * sum over j of (-q)^j * (sum over i of rate_i beta_1^i d_i^j),
// of which kTerms terms are float32's precision. So a row costs the same whatever it missed.
struct CatchUp {
  Table table;           // float32
  const float* decays;   // [2, R + 1]: beta_1^i and beta_2^i
  const float* centers;  // [S]: u of each segment
  const float* terms;    // [S, kTerms, L]: beta_1^i d_i^j, 0 beyond the steps that count
  float epsilon;
  int num_segments;  // S
  int length;        // L
  bool all;          // whether every row makes up, or the touched ones
  Int64 step;        // up to which they do

  // No row may miss more steps than there are rates.
  MULTI_HOT_RULE bool is_of_all() const { return all || step % table.num_rates == 0; }
};

template <class Lanes>
MULTI_HOT_RULE void catch_up_row(const CatchUp& a, Int64 id) {
  const Table& table = a.table;
  const Int64 before = table.last[id], missed = a.step - before;
  if (before == 0 || missed <= 0) return;  // a row that was never touched has nothing to make up for
  const int units = table.units;
  float* __restrict row = static_cast<float*>(table.rows) + id * units;
  float* __restrict first = table.slots[0] + id * units;
  float* __restrict second = table.slots[1] + id * units;
  for (int segment = 0; segment < a.num_segments; ++segment) {
    const int begin = segment * a.length;
    if (missed <= begin) break;
    const int count = missed - begin < a.length ? static_cast<int>(missed) - begin : a.length;
    float sums[kTerms] = {};  // of the rate of step i after `begin`, times each of its terms
    Lanes::add_up(a, before + begin, count, a.terms + Int64{segment} * kTerms * a.length, sums);
    const float s[kTerms] = {sums[0], sums[1], sums[2], sums[3], sums[4]};  // in registers
    const float center = a.centers[segment], epsilon = a.epsilon;
    MULTI_HOT_LOOP
    for (int c = Lanes::first(); c < units; c += Lanes::kCount) {
      const float root = sqrtf(second[c]) * center;
      const float inverse = 1.0f / (root + epsilon);
      const float q = -root * inverse;
      row[c] -= first[c] * inverse * (s[0] + q * (s[1] + q * (s[2] + q * (s[3] + q * s[4]))));
    }
  }
  const float decay_m = a.decays[missed], decay_v = a.decays[table.num_rates + 1 + missed];
  for (int c = Lanes::first(); c < units; c += Lanes::kCount) {
    first[c] *= decay_m;
    second[c] *= decay_v;
  }
  Lanes::join();  // all lanes have read when the row was seen last
  if (Lanes::first() == 0) table.last[id] = a.step;
}

}  // namespace multi_hot
