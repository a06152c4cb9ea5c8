// What a kernel translated by ptx.py is compiled with: the thread that it runs as, what the device does
// for it, and the instructions that need more than an operator of C.
#pragma once
#include <stdint.h>
#include <string.h>

typedef struct {
  const char* params;
  char* shared;
  uint32_t tid[3], ntid[3], ctaid[3], nctaid[3], lane, carry;
} Thread;
typedef struct {  // what the lanes of a warp gave, and which of them took part; of a barrier the sum, and how many
  uint32_t value[32], members;
} Lanes;
typedef struct {
  void (*run)(Thread*);
  uint32_t num_params, params_bytes, shared_bytes, max_threads;
  uint8_t cooperates;  // its threads wait for each other
  uint8_t is_ordered;  // its blocks wait for those before them
  const uint32_t (*params)[2];  // offset, size
} Kernel;

// Registers hold bits, which these give a type.
static inline float from_f32(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t to_f32(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static inline double from_f64(uint64_t u) { double f; memcpy(&f, &u, 8); return f; }
static inline uint64_t to_f64(double f) { uint64_t u; memcpy(&u, &f, 8); return u; }
static inline float from_f16(uint16_t u) { _Float16 f; memcpy(&f, &u, 2); return (float)f; }
static inline uint16_t to_f16(float f) { _Float16 h = (_Float16)f; uint16_t u; memcpy(&u, &h, 2); return u; }
static inline float from_bf16(uint16_t u) { return from_f32((uint32_t)u << 16); }
static inline uint16_t to_bf16(float f) {
  uint32_t u = to_f32(f);
  return f != f ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

#ifndef __cplusplus
#include <tgmath.h>

// Waits for the others of the lanes `who` of the warp or, where the kind is 'b', at the barrier `who` for `count`
// threads, 0: all.
const Lanes* emulated_meet(Thread* t, int kind, uint32_t who, uint32_t count, uint32_t value);
void emulated_interrupt(Thread* t);  // a place where another thread may go on

// Reads and writes of memory.
#define LOAD(type, address) ({ type v_; memcpy(&v_, (const void*)(address), sizeof v_); v_; })
#define STORE(type, address, bits) do { type v_ = (type)(bits); memcpy((void*)(address), &v_, sizeof v_); } while (0)
// A sum or product in double precision, rounded to zero (z) or down (m).
static inline float rounded(char mode, double x) {
  float f = (float)x;
  if (mode == 'z' && fabs((double)f) > fabs(x)) return nextafterf(f, 0);
  if (mode == 'm' && f > x) return nextafterf(f, -INFINITY);
  return f;
}
static inline double saturated(double x) { return x > 0 ? x < 1 ? x : 1 : 0; }
// A number from -end to end - 1.
static inline int64_t to_integer(double x, double end) {
  return isnan(x) ? 0 : x <= -end ? -(__int128)end : x >= end ? (__int128)end - 1 : (int64_t)x;
}
static inline uint32_t permuted(uint32_t a, uint32_t b, uint32_t selector) {
  uint64_t bytes = (uint64_t)b << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    uint32_t from = selector >> 4 * i & 15, byte = bytes >> 8 * (from & 7) & 255;
    out |= (from & 8 ? byte & 128 ? 255u : 0 : byte) << 8 * i;
  }
  return out;
}
static inline uint32_t reversed(uint32_t x) {
  uint32_t out = 0;
  for (int i = 0; i < 32; ++i) out |= (x >> i & 1) << (31 - i);
  return out;
}

// The lane that a shuffle takes from, or -1 where that is not in the segment.
static inline int source_lane(Thread* t, char mode, int by, uint32_t c) {
  int lane = t->lane, segment = c >> 8 & 31, end = (lane & segment) | (c & 31 & ~segment);
  int from = mode == 'd' ? lane + by : mode == 'u' ? lane - by : mode == 'b' ? lane ^ by
           : (lane & segment) | (by & 31 & ~segment);
  return (mode == 'u' ? from < end : from > end) ? -1 : from;
}
static inline uint32_t shuffle(Thread* t, char mode, uint32_t v, int by, uint32_t c, uint32_t mask) {
  const Lanes* all = emulated_meet(t, 's', mask, 0, v);
  int from = source_lane(t, mode, by, c);
  if (from < 0) from = t->lane;
  return all->members >> from & 1 ? all->value[from] : 0xdeadbeef;  // of a lane that is not there
}
// The lanes that gave what is wanted.
static inline uint32_t lanes_with(Thread* t, uint32_t wanted, uint32_t value, uint32_t mask) {
  const Lanes* all = emulated_meet(t, 'v', mask, 0, value);
  uint32_t out = 0;
  for (int i = 0; i < 32; ++i) out |= (all->members >> i & 1 && all->value[i] == wanted) << i;
  return out;
}
// The lower half of a sum, whose upper half is the carry of the next operation.
static inline uint32_t carried(Thread* t, uint64_t sum) {
  t->carry = sum >> 32;
  return sum;
}
static inline int all_agree(const Lanes* votes) { return votes->value[0] == votes->members; }
// `new_bits` may read `old`.
#define ATOMIC(bits, address, new_bits) ({                                                   \
    emulated_interrupt(t);                                                                   \
    bits* a_ = (bits*)(address);                                                             \
    bits old = __atomic_load_n(a_, __ATOMIC_RELAXED);                                        \
    while (!__atomic_compare_exchange_n(a_, &old, (bits)(new_bits), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {} \
    old; })
#endif
