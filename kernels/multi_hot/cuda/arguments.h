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
  // Of several batches, one behind another in each array, the one that counts.
  const int* step;
  int num_steps;
};

constexpr int kForwardWarps = 4;    // of a block of the forward pass: a row each
constexpr int kSumWarps = 4;        // of a block of the sums: a tile each
constexpr int kUpdateWarps = 8;     // of a block of the updates: a touched row each

struct ForwardArguments {
  DeviceSets sets;
  const void* table;  // [V, H]
  void* y;            // [B, H]
  int units;          // H
};

// Sums over runs of equal ids. A warp adds the entries of a tile; sums of runs that cross tiles
// are added in a second pass, in the order of the tiles. For the rows that a batch touches, slots
// stand for ids: V is their number, and the rows of the result are those of the slots.
struct SumArguments {
  DeviceSets sets;   // of which the weights, sorted as well, and the step of several batches
  const int* fault;  // [L]: not 0 if the splits or an id are wrong
  const int* rows;   // [L, N], of dy; -1 where an entry adds nothing
  const int* keys;   // [L, N], ascending; V where an entry does not count
  const void* dy;    // [B, H]
  void* dw;          // [V, H]
  int units;         // H
  float* heads;      // [tiles, H]: of the run that began in an earlier tile
  float* tails;      // [tiles, H]: of the run that began here and goes on in the next
  int num_tiles;
  int tile;          // entries of one
};

// Updates rows of a table by their gradients.
struct UpdateArguments {
  Update update;           // but for the numbers of the step
  const int* active;       // [1]: 0 where nothing is to change
  const float* scalars;    // [5], as `of_step` takes them
  const Int64* step;       // [1], counted from 1
  const float* gradients;  // [n, H]
  const int* ids;          // [n], distinct
  const int* num;          // [1], ids that count
  void* table;             // [V, H]
};

// Lets rows of exact Adam make up for the steps that they missed.
struct CatchUpArguments {
  CatchUp row;         // but for the step
  const int* active;   // [1]: 0 where nothing is to change
  const int* all;      // [1]: whether every row is to
  const Int64* step;   // [1], up to which they do
  const int* ids;      // [n], distinct
  const int* num;      // [1], ids that count
  int num_tokens;      // V
};

}  // namespace multi_hot
