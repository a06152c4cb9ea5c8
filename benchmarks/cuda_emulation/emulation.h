// CUDA's blocks, warps and barriers on a CPU, so that g++ can compile the kernels: include it before
// them. Every thread of a block is a fiber; a scheduler runs those that can run in an order that
// follows from a seed, blocks too. At a barrier, a shuffle or a vote a fiber waits for the others. A block
// in which nobody can run any more ends the process.
//
// The thread sanitizer sees the fibers as threads that only barriers order, so it finds races of the
// kernels: fibers of different blocks, and lanes of a warp, are not ordered by the scheduler. A shuffle
// or vote orders no memory accesses, as in CUDA.
#pragma once

#define MULTI_HOT_EMULATION

#include <math.h>

#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __launch_bounds__(...)
// A place of its own in each block, which begins as garbage; the block's end frees it.
#define SHARED(type, name, size) \
  type* const name = static_cast<type*>(emulation::shared(__COUNTER__, sizeof(type) * (size)))

namespace emulation {

struct Dim {
  unsigned x, y, z;
};
enum class Collective : int { kSync, kShuffle, kVote, kMatch };

Dim thread_index();
Dim block_index();
Dim grid_size();
Dim block_size();
void* shared(int site, std::size_t bytes);
void sync_block();
// Gives a value and returns those of all 32 lanes, valid until the lane's next collective.
const std::uint32_t* exchange(Collective kind, std::uint32_t mask, std::uint32_t value);
// A place where another fiber may go on.
void interrupt();

template <class T>
T shuffle(std::uint32_t mask, T value, int from) {
  static_assert(sizeof(T) == 4, "");
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const std::uint32_t taken = exchange(Collective::kShuffle, mask, bits)[from & 31];
  std::memcpy(&value, &taken, 4);
  return value;
}

}  // namespace emulation

#define threadIdx (emulation::thread_index())
#define blockIdx (emulation::block_index())
#define gridDim (emulation::grid_size())
#define blockDim (emulation::block_size())

inline void __syncthreads() { emulation::sync_block(); }
inline void __syncwarp() { emulation::exchange(emulation::Collective::kSync, ~0u, 0); }
template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
  return emulation::shuffle(mask, value, from);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const std::uint32_t* all = emulation::exchange(emulation::Collective::kVote, mask, predicate != 0);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= all[i] << i;
  return votes;
}
inline unsigned __match_any_sync(unsigned mask, int value) {
  const auto own = static_cast<std::uint32_t>(value);
  const std::uint32_t* all = emulation::exchange(emulation::Collective::kMatch, mask, own);
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) same |= static_cast<unsigned>(all[i] == own) << i;
  return same;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

// Relaxed, as CUDA's are: no other access is ordered by them.
inline int atomicAdd(int* at, int value) {
  emulation::interrupt();
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline int atomicOr(int* at, int value) {
  emulation::interrupt();
  return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}
inline int atomicCAS(int* at, int expected, int value) {
  emulation::interrupt();
  __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

namespace multi_hot {

inline float bits_to_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned float_to_bits(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float half_to_float(unsigned short bits) {
  const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, fraction = bits & 1023u;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}
inline unsigned short float_to_half(float value) {
  const unsigned bits = float_to_bits(value), sign = bits >> 16 & 0x8000u;
  const float magnitude = bits_to_float(bits & 0x7fffffffu);
  if (!(magnitude < 65520.0f)) return sign | (magnitude != magnitude ? 0x7e00u : 0x7c00u);
  if (magnitude < 0x1p-14f) {  // a multiple of 2^-24, to which this addition rounds
    return sign | (float_to_bits(magnitude + 0.5f) - float_to_bits(0.5f));
  }
  const unsigned shifted = float_to_bits(magnitude) - (112u << 23);
  return sign | (shifted + 0xfffu + (shifted >> 13 & 1u)) >> 13;
}

}  // namespace multi_hot
