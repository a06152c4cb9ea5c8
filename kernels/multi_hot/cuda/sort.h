// The transposed index: the entries of a batch sorted by id, equal ids in the order of their
// positions, by counting sorts of 8 bits or fewer. Only integers are counted, so nothing depends on
// the order in which blocks and warps run.
#pragma once

#include "device.h"

namespace multi_hot {

// The arguments of the batch that this block is of.
__device__ inline PrepareArguments of_block(PrepareArguments a) {
  const long long batch = blockIdx.y;
  a.sets = batch_of(a.sets, batch);
  a.fault += batch;
  a.rows += batch * a.sets.num_values;
  return a;
}

__device__ inline SortArguments of_block(SortArguments a) {
  const long long batch = blockIdx.y, entries = batch * a.sets.num_values;
  a.sets = batch_of(a.sets, batch);
  if (a.keys != nullptr) a.keys += entries;
  if (a.positions != nullptr) a.positions += entries;
  a.counts += (batch * a.num_segments) << a.digit_bits;
  a.sorted_keys += entries;
  a.sorted_positions += entries;
  return a;
}

// Notes the row of each position, and whether the splits and ids are right.
__device__ inline void prepare(const PrepareArguments& a) {
  const long long num_threads = static_cast<long long>(gridDim.x) * kPrepareThreads;
  const long long thread = static_cast<long long>(blockIdx.x) * kPrepareThreads + threadIdx.x;
  for (long long row = thread / 32; row < a.sets.num_rows; row += num_threads / 32) {
    long long begin, end;
    bool wrong = !bounds_of(a.sets, static_cast<int>(row), &begin, &end);
    if (!wrong) {
      for (long long p = begin + lane(); p < end; p += 32) {
        a.rows[p] = static_cast<int>(row);
        wrong |= id_at(a.sets, p) == a.sets.num_tokens;
      }
    }
    if (wrong) atomicOr(a.fault, 1);
  }
  if (a.sets.num_rows == 0 && thread == 0 && *a.sets.splits != 0) atomicOr(a.fault, 1);
}

// The key of an entry: its id, or V where it does not count.
__device__ inline int key_at(const SortArguments& a, long long nnz, int entry) {
  const int V = a.sets.num_tokens;
  if (a.keys == nullptr) return entry < nnz ? id_at(a.sets, entry) : V;
  return a.keys[entry];
}

__device__ inline int digit_of(const SortArguments& a, int key) {
  return (key >> a.shift) & ((1 << a.digit_bits) - 1);
}

// Counts the digits of a segment.
__device__ inline void count(const SortArguments& a) {
  __shared__ int counts[1 << kMaxDigitBits];
  const int num_digits = 1 << a.digit_bits;
  const long long nnz = a.sets.splits[a.sets.num_rows];
  for (int d = threadIdx.x; d < num_digits; d += kSortThreads) counts[d] = 0;
  __syncthreads();
  const int end = end_of_segment(a);
  for (int i = blockIdx.x * a.segment + threadIdx.x; i < end; i += kSortThreads) {
    atomicAdd(&counts[digit_of(a, key_at(a, nnz, i))], 1);
  }
  __syncthreads();
  for (int d = threadIdx.x; d < num_digits; d += kSortThreads) {
    a.counts[static_cast<long long>(blockIdx.x) * num_digits + d] = counts[d];
  }
}

// Moves the entries of a segment to their places among all.
__device__ inline void scatter(const SortArguments& a) {
  constexpr int kWarps = kSortThreads / 32;
  __shared__ int place[1 << kMaxDigitBits];  // of the next entry of each digit
  __shared__ int scanned[1 << kMaxDigitBits];
  __shared__ int of_warp[kWarps << kMaxDigitBits];  // entries of each digit in each warp, then their place
  const int num_digits = 1 << a.digit_bits;
  const int thread = threadIdx.x;
  const long long nnz = a.sets.splits[a.sets.num_rows];
  // 1. Where the segment's entries of each digit go: behind all smaller digits, and behind those of
  // the segments before.
  int before = 0, total = 0;
  if (thread < num_digits) {
    for (int s = 0; s < a.num_segments; ++s) {
      const int counted = a.counts[static_cast<long long>(s) * num_digits + thread];
      if (s < static_cast<int>(blockIdx.x)) before += counted;
      total += counted;
    }
    scanned[thread] = total;
  }
  __syncthreads();
  for (int step = 1; step < num_digits; step *= 2) {
    int sum = 0;
    if (thread < num_digits) sum = scanned[thread] + (thread >= step ? scanned[thread - step] : 0);
    __syncthreads();
    if (thread < num_digits) scanned[thread] = sum;
    __syncthreads();
  }
  if (thread < num_digits) place[thread] = scanned[thread] - total + before;
  for (int i = thread; i < kWarps << a.digit_bits; i += kSortThreads) of_warp[i] = 0;
  __syncthreads();
  // 2. Block by block of consecutive entries, a lane each.
  const int end = end_of_segment(a);
  for (int start = blockIdx.x * a.segment; start < end; start += kSortThreads) {
    const int entry = start + thread;
    const bool exists = entry < end;
    const int key = exists ? key_at(a, nnz, entry) : 0;
    const int digit = exists ? digit_of(a, key) : num_digits;
    const unsigned same = __match_any_sync(kAllLanes, digit);
    const int rank = __popc(same & ((1u << lane()) - 1));
    int* const own = &of_warp[(warp() << a.digit_bits) + digit];
    if (exists && rank == 0) *own = __popc(same);
    __syncthreads();
    if (thread < num_digits) {
      int next = place[thread];
      for (int w = 0; w < kWarps; ++w) {
        int& entries = of_warp[(w << a.digit_bits) + thread];
        const int counted = entries;
        entries = next;
        next += counted;
      }
      place[thread] = next;
    }
    __syncthreads();
    if (exists) {
      const int to = *own + rank;
      a.sorted_keys[to] = key;
      a.sorted_positions[to] = a.positions == nullptr ? entry : a.positions[entry];
    }
    __syncthreads();
    for (int i = thread; i < kWarps << a.digit_bits; i += kSortThreads) of_warp[i] = 0;
    __syncthreads();
  }
}

}  // namespace multi_hot
