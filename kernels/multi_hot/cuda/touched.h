// The rows of a table that a batch touches, from its entries sorted by id: each distinct id gets a
// slot, in ascending order. The cost follows the batch, not the vocabulary.
#pragma once

#include "device.h"

namespace multi_hot {

// Whether a sorted entry counts and is the first of its id.
__device__ inline bool is_first(const TouchArguments& a, int entry) {
  const int key = a.keys[entry];
  return key < a.sets.num_tokens && (entry == 0 || a.keys[entry - 1] != key);
}

// Counts the ids that begin in a segment.
__device__ inline void count_ids(const TouchArguments& a) {
  __shared__ int count[1];
  if (threadIdx.x == 0) *count = 0;
  __syncthreads();
  const int end = end_of_segment(a);
  int own = 0;
  for (int i = blockIdx.x * a.segment + threadIdx.x; i < end; i += kSortThreads) own += is_first(a, i);
  if (own != 0) atomicAdd(count, own);
  __syncthreads();
  if (threadIdx.x == 0) a.counts[blockIdx.x] = *count;
}

// Gives the ids of a segment their slots.
__device__ inline void place_ids(const TouchArguments& a) {
  constexpr int kWarps = kSortThreads / 32;
  __shared__ int sums[2];  // ids before this segment, and in all
  __shared__ int of_warp[kWarps];
  const int thread = threadIdx.x;
  if (thread < 2) sums[thread] = 0;
  __syncthreads();
  for (int s = thread; s < a.num_segments; s += kSortThreads) {
    const int counted = a.counts[s];
    if (s < static_cast<int>(blockIdx.x)) atomicAdd(&sums[0], counted);
    atomicAdd(&sums[1], counted);
  }
  __syncthreads();
  int before = sums[0];
  const int total = sums[1];
  const int end = end_of_segment(a);
  for (int start = blockIdx.x * a.segment; start < end; start += kSortThreads) {
    const int entry = start + thread;
    const bool begins = entry < end && is_first(a, entry);
    const unsigned all = __ballot_sync(kAllLanes, begins);
    if (lane() == 0) of_warp[warp()] = __popc(all);
    __syncthreads();
    int rank = __popc(all & (kAllLanes >> (31 - lane())));  // of those up to this entry
    int of_block = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp()) rank += of_warp[w];
      of_block += of_warp[w];
    }
    if (entry < end) {
      const int key = a.keys[entry], slot = before + rank - 1;
      if (begins) a.ids[slot] = key;
      a.slots[entry] = key < a.sets.num_tokens ? slot : a.num_slots;
    }
    before += of_block;
    __syncthreads();
  }
  const int num_threads = static_cast<int>(gridDim.x) * kSortThreads;
  for (long long slot = total + static_cast<long long>(blockIdx.x) * kSortThreads + thread;
       slot < a.num_slots; slot += num_threads) {
    a.ids[slot] = -1;
  }
  if (blockIdx.x == 0 && thread == 0) *a.num = total;
}

}  // namespace multi_hot
