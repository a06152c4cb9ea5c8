// The index of a batch by the ids that it touches: for each distinct id the rows that hold it.
//
// Its cost follows the batch, not the vocabulary: where `transpose.h` counts every id of the
// vocabulary, this sorts the batch's entries into buckets of ids, and each bucket by itself.
// Shapes: B rows, V num_tokens, N values, n = min(N, V) slots, C chunks, K buckets.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "parallel.h"
#include "sets.h"

namespace multi_hot {

// Ids that one thread handles together. 16 rows of float32 fill whole cache lines, whatever the
// number of columns, and so do 16 numbers of a slot: no two threads write to one line.
constexpr int kGroupBits = 4;

// What the caller provides, so that XLA can plan it.
struct TouchedIndex {
  int32_t* ids;      // [n] distinct ids, -1 from `num` on; bucket by bucket, ascending in each
  int32_t* spans;    // [n, 2]: where in `rows` the rows of an id begin and end
  int32_t* rows;     // [N] ascending within an id, each once
  float* weights;    // [N] of each of `rows`, added up; null where the sets have none
  int32_t* num;      // [1] distinct ids
  int64_t* entries;  // [N] workspace
  float* placed;     // [N] workspace: weights in the order of `entries`
  int32_t* counts;   // [C + 2, K] workspace
  int64_t num_slots;    // n
  int64_t num_chunks;   // C
  int64_t num_buckets;  // K, a power of two
};

namespace internal {

// The position of an id within its bucket: neighbouring ids stay neighbours.
struct Buckets {
  int shift;
  int64_t mask;

  explicit Buckets(int64_t num_buckets) : shift(0), mask(num_buckets - 1) {
    while ((int64_t{1} << shift) < num_buckets) ++shift;
  }
  int64_t of(int32_t id) const { return (id >> kGroupBits) & mask; }
  int64_t place(int32_t id) const {
    return (int64_t{id >> (kGroupBits + shift)} << kGroupBits) | (id & ((1 << kGroupBits) - 1));
  }
  int64_t id(int64_t bucket, int64_t place) const {
    const int64_t group = ((place >> kGroupBits) << shift) | bucket;
    return (group << kGroupBits) | (place & ((1 << kGroupBits) - 1));
  }
  int64_t num_places(int64_t num_tokens) const {
    return ((num_tokens - 1) >> (kGroupBits + shift) << kGroupBits) + (1 << kGroupBits);
  }
};

// An entry in a bucket: the place of its id, and its row. Once the bucket is sorted, a distinct id takes
// the place of an entry: the id, and where its rows end.
struct Entry {
  int32_t place, row;
};
static_assert(sizeof(Entry) == sizeof(int64_t), "as the caller provides them");

// Moves the rows [from, until) of an id to `to`, which is not behind them, each once: a repeated id's
// stand next to each other. Returns their end.
inline int32_t each_once(int32_t from, int32_t until, int32_t to, int32_t* rows, float* weights) {
  const int32_t first = to;
  for (int32_t i = from; i < until; ++i) {
    if (to > first && rows[to - 1] == rows[i]) {
      if (weights != nullptr) weights[to - 1] += weights[i];
      continue;
    }
    rows[to] = rows[i];
    if (weights != nullptr) weights[to] = weights[i];
    ++to;
  }
  return to;
}

// Sorts a bucket's entries by id. Writes the rows of each id to `rows` [from the bucket's begin on], and
// over the entries the distinct ids with the end of their rows, counted from the begin. Returns the number
// of ids.
inline int64_t group(Entry* entries, int64_t count, const float* placed, bool unique, int64_t bucket,
                     const Buckets& buckets, int64_t num_places, int32_t* rows, float* weights) {
  static thread_local std::vector<int32_t> counts, found;  // between buckets all counts are 0
  if (static_cast<int64_t>(counts.size()) < num_places) {
    found.resize(num_places);
    counts.resize(num_places, 0);
  }  // from here on nothing throws
  int32_t* cursors = counts.data();
  int32_t* places = found.data();
  for (int64_t i = 0; i < count; ++i) ++cursors[entries[i].place];
  int64_t num_found = 0;
  int32_t begin = 0;
  for (int64_t group = 0; group < num_places; group += 1 << kGroupBits) {
    int32_t any = 0;
    for (int64_t k = 0; k < 1 << kGroupBits; ++k) any |= cursors[group + k];
    if (any == 0) continue;
    for (int64_t place = group; place < group + (1 << kGroupBits); ++place) {
      places[num_found] = static_cast<int32_t>(place);  // without a branch: any may be missing
      const int32_t size = cursors[place];
      cursors[place] = size == 0 ? 0 : begin;
      num_found += size != 0;
      begin += size;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const int32_t to = cursors[entries[i].place]++;
    rows[to] = entries[i].row;
    if (weights != nullptr) weights[to] = placed[i];
  }
  int32_t from = 0, end = 0;
  for (int64_t f = 0; f < num_found; ++f) {
    const int32_t until = std::exchange(cursors[places[f]], 0);
    end = unique ? until : each_once(from, until, end, rows, weights);
    from = until;
    entries[f] = {static_cast<int32_t>(buckets.id(bucket, places[f])), end};
  }
  return num_found;
}

}  // namespace internal

// Fills `index`, which does not depend on the number of threads or chunks. Raises what is wrong with the
// sets.
template <class Pool>
void touch(const Sets& sets, const TouchedIndex& index, Pool& pool) {
  check_splits(sets);
  const int64_t C = index.num_chunks, K = index.num_buckets, B = sets.num_rows;
  const internal::Buckets buckets(K);
  parallel_for(pool, C, [&](int64_t chunk) {
    const int64_t first = B * chunk / C, last = B * (chunk + 1) / C;
    check_ids(sets, first, last);
    int32_t* counts = index.counts + chunk * K;
    std::fill(counts, counts + K, 0);
    for (int64_t i = sets.splits[first]; i < sets.splits[last]; ++i) {
      ++counts[buckets.of(sets.values[i])];
    }
  });
  int32_t* begins = index.counts + C * K;  // of the buckets
  int32_t position = 0;
  for (int64_t bucket = 0; bucket < K; ++bucket) {
    begins[bucket] = position;
    for (int64_t chunk = 0; chunk < C; ++chunk) {
      int32_t& count = index.counts[chunk * K + bucket];
      position += count;
      count = position - count;  // where the chunk writes its first entry of the bucket
    }
  }
  auto* const entries = reinterpret_cast<internal::Entry*>(index.entries);
  parallel_for(pool, C, [&](int64_t chunk) {
    int32_t* cursors = index.counts + chunk * K;
    for (int64_t row = B * chunk / C; row < B * (chunk + 1) / C; ++row) {
      for (int64_t i = sets.splits[row]; i < sets.splits[row + 1]; ++i) {
        const int32_t id = sets.values[i], to = cursors[buckets.of(id)]++;
        entries[to] = {static_cast<int32_t>(buckets.place(id)), static_cast<int32_t>(row)};
        if (index.weights != nullptr) index.placed[to] = sets.weights[i];
      }
    }
  });
  int32_t* sizes = begins + K;  // distinct ids of the buckets
  const int64_t num_places = buckets.num_places(sets.num_tokens);
  const auto end_of = [=](int64_t bucket) { return bucket + 1 < K ? begins[bucket + 1] : position; };
  // A bucket is a block: of 64, the one with the most frequent ids holds a tenth of all entries.
  parallel_for(pool, K, [&](int64_t bucket) {
    const int64_t begin = begins[bucket];
    float* weights = index.weights == nullptr ? nullptr : index.weights + begin;
    const float* placed = index.weights == nullptr ? nullptr : index.placed + begin;
    sizes[bucket] = static_cast<int32_t>(internal::group(
        entries + begin, end_of(bucket) - begin, placed, sets.unique, bucket, buckets, num_places,
        index.rows + begin, weights));
  });
  int32_t num = 0;
  for (int64_t bucket = 0; bucket < K; ++bucket) {
    num += sizes[bucket];
    sizes[bucket] = num - sizes[bucket];  // the bucket's first slot
  }
  *index.num = num;
  constexpr int64_t kSlotsPerBlock = 1 << 14;
  const int64_t num_unused = (index.num_slots - num + kSlotsPerBlock - 1) / kSlotsPerBlock;
  parallel_for(pool, K + num_unused, [&](int64_t bucket) {
    if (bucket >= K) {  // a block of unused slots
      const int64_t first = num + (bucket - K) * kSlotsPerBlock;
      const int64_t last = std::min(index.num_slots, first + kSlotsPerBlock);
      return std::fill(index.ids + first, index.ids + last, -1);
    }
    const int32_t begin = begins[bucket];
    const int64_t first = sizes[bucket], last = bucket + 1 < K ? sizes[bucket + 1] : num;
    int32_t from = begin;
    for (int64_t slot = first; slot < last; ++slot) {
      const internal::Entry& found = entries[begin + slot - first];
      index.ids[slot] = found.place;
      index.spans[2 * slot] = from;
      index.spans[2 * slot + 1] = from = begin + found.row;
    }
  });
}

}  // namespace multi_hot
