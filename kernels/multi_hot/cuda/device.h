// What all kernels need of the device: types of tables, ids and splits.
#pragma once

#include "arguments.h"

namespace multi_hot {

constexpr unsigned kAllLanes = 0xffffffffu;

struct Float16 {
  unsigned short bits;
};

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(Bfloat16 x) { return number_of(static_cast<unsigned>(x.bits) << 16); }
__device__ inline float widen(Float16 x) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
}

__device__ inline void narrow(float value, float* to) { *to = value; }
__device__ inline void narrow(float value, Bfloat16* to) {
  const unsigned bits = bits_of(value);
  // To the nearest, ties to even; a NaN stays one.
  to->bits = value != value ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
__device__ inline void narrow(float value, Float16* to) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
}

__device__ inline float not_a_number() { return number_of(0x7fc00000u); }

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / 32; }

// Which of several batches counts.
__device__ inline long long step_of(const DeviceSets& sets) {
  const long long step = sets.step == nullptr ? 0 : *sets.step;
  return step < 0 ? 0 : step < sets.num_steps ? step : sets.num_steps - 1;
}

// The arguments of a kernel that reads an index, for the batch that counts.
__device__ inline SumArguments of_step(SumArguments a) {
  const long long step = step_of(a.sets), entries = step * a.sets.num_values;
  a.index.faults += step;
  a.index.rows += entries;
  a.index.keys = a.slots == nullptr ? a.index.keys + entries : a.slots;
  a.index.positions += entries;
  if (a.sets.weights != nullptr) a.sets.weights += entries;
  return a;
}
__device__ inline TouchArguments of_step(TouchArguments a) {
  a.keys += step_of(a.sets) * a.sets.num_values;
  return a;
}

// Where the segment of the entries ends that this block is for.
template <class Arguments>
__device__ int end_of_segment(const Arguments& a) {
  const long long end = (static_cast<long long>(blockIdx.x) + 1) * a.segment;
  return end < a.sets.num_values ? static_cast<int>(end) : a.sets.num_values;
}

// One of several batches, by itself.
__device__ inline DeviceSets batch_of(DeviceSets sets, long long number) {
  const int id_bytes = sets.narrow_ids ? 2 : 4;
  sets.values = static_cast<const char*>(sets.values) + number * sets.num_values * id_bytes;
  sets.splits += number * (sets.num_rows + 1);
  if (sets.weights != nullptr) sets.weights += number * sets.num_values;
  return sets;
}

// Returns the id at a position, or V where it is out of range.
__device__ inline int id_at(const DeviceSets& sets, long long position) {
  const int id = sets.narrow_ids ? static_cast<const unsigned short*>(sets.values)[position]
                                 : static_cast<const int*>(sets.values)[position];
  return 0 <= id && id < sets.num_tokens ? id : sets.num_tokens;
}

// Reads where a row begins and ends; returns whether that can be right.
__device__ inline bool bounds_of(const DeviceSets& sets, int row, long long* begin, long long* end) {
  *begin = sets.splits[row];
  *end = sets.splits[row + 1];
  return 0 <= *begin && *begin <= *end && *end <= sets.num_values && (row > 0 || *begin == 0);
}

}  // namespace multi_hot
