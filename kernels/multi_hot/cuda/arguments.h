// What the kernels take, for the device and the host. NVRTC has no headers but those beside this.
//
// Shapes: B rows, V num_tokens, H units, N values (capacity; nnz = splits[B] of them count).
#pragma once

#include "../native/rules.h"

namespace multi_hot {

// A batch of ragged sets on the device.
struct DeviceSets {
  const void* values;    // [N] int32, or uint16 if narrow_ids
  const int* splits;     // [B + 1]
  const float* weights;  // [N], which add up; null: an id counts once
  int narrow_ids;
  int num_values;  // N
  int num_rows;    // B
  int num_tokens;  // V
  // Of several batches, one behind another in each array, the one that counts; null: there is one.
  const int* step = nullptr;
  int num_steps = 1;
};

constexpr int kForwardWarps = 4;    // of a block of the forward pass: a row each
constexpr int kPrepareThreads = 256;
constexpr int kSortThreads = 512;
constexpr int kSumWarps = 4;        // of a block of the sums: a tile each
constexpr int kMaxDigitBits = 8;
constexpr int kUpdateWarps = 8;     // of a block of the updates: a touched row each

// Batches of entries sorted by id.
struct SortedIndex {
  const int* faults;     // [L]: 1 if the splits or an id are wrong
  const int* rows;       // [L, N], of each position
  const int* keys;       // [L, N]; V where an entry does not count
  const int* positions;  // [L, N]
};

struct ForwardArguments {
  DeviceSets sets;
  const void* table;  // [V, H]
  void* y;            // [B, H]
  int units;          // H
};

// An index may be of L batches, each by the blocks of its own number in y.
struct PrepareArguments {
  DeviceSets sets;
  int* fault;  // [L]: 1 if the splits or an id are wrong
  int* rows;   // [L, N], the row of each position
};

// One pass of a radix sort by id that keeps the order of equal ids. Segments of the entries are
// counted, and then moved, by a block each.
struct SortArguments {
  DeviceSets sets;
  const int* keys;       // [L, N], or null: the ids of `sets`
  const int* positions;  // [L, N], or null: 0, 1, 2, ...
  int* counts;           // [L, segments, 2^digit_bits]
  int* sorted_keys;      // [L, N]
  int* sorted_positions; // [L, N]
  int num_segments;
  int segment;     // entries of one
  int shift;       // of the digit in the key
  int digit_bits;
};

// Sums over runs of equal ids. A warp adds the entries of a tile; sums of runs that cross tiles
// are added in a second pass, in the order of the tiles. For the rows that a batch touches, slots
// stand for ids: V is their number, and the rows of the result are those of the slots.
struct SumArguments {
  DeviceSets sets;  // of which the weights, and the step of several batches
  SortedIndex index;
  const int* slots;  // [N], in place of the batch's keys; null: the keys
  const void* dy;    // [B, H]
  void* dw;          // [V, H]
  int units;         // H
  float* heads;      // [tiles, H]: of the run that began in an earlier tile
  float* tails;      // [tiles, H]: of the run that began here and goes on in the next
  int num_tiles;
  int tile;  // entries of one
};

// The distinct ids of a batch's sorted entries, and n = min(N, V) slots for them.
struct TouchArguments {
  DeviceSets sets;
  const int* keys;  // [L, N], sorted; V where an entry does not count
  int* counts;      // [segments]: the ids whose first entry is in a segment
  int* ids;         // [n] ascending, -1 from `num` on
  int* num;         // [1]
  int* slots;       // [N], of each sorted entry; n where it does not count
  int num_slots;    // n
  int num_segments;
  int segment;      // entries of one
};

// Updates rows of a table by their gradients.
struct UpdateArguments {
  Update update;           // but for the numbers of the step
  const Int64* step;       // [1], counted from 1; 0 where nothing is to change
  const float* numbers;    // [2]: rate and factor
  const float* gradients;  // [n, H]
  const int* ids;          // [n], distinct
  const int* num;          // [1], ids that count
};

// Lets rows of exact Adam make up for the steps that they missed.
struct CatchUpArguments {
  CatchUp row;        // but for the step
  const Int64* step;  // [1], up to which they do
  const int* ids;     // [n], distinct
  const int* num;     // [1], ids that count
};

}  // namespace multi_hot
