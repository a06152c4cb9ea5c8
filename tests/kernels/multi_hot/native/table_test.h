// The touched rows of a table and their updates, for kernel_test.cc, whose inputs and pools they use.
#pragma once

#include "table_update.h"

namespace {

// An index with the memory that it is made of.
struct OwnIndex {
  std::vector<int32_t> ids, spans, rows, num, counts;
  std::vector<float> weights, placed;
  std::vector<int64_t> entries;
  TouchedIndex index;

  OwnIndex(const Sets& sets, int64_t chunks, int64_t buckets)
      : ids(std::min(sets.num_values, sets.num_tokens)), spans(2 * ids.size()),
        rows(sets.num_values), num(1), counts((chunks + 2) * buckets), weights(sets.num_values),
        placed(sets.num_values), entries(sets.num_values) {
    index = {ids.data(), spans.data(), rows.data(),
             sets.weights == nullptr ? nullptr : weights.data(), num.data(), entries.data(),
             placed.data(), counts.data(), static_cast<int64_t>(ids.size()), chunks, buckets};
  }
};

// The gradient of the whole table by way of the touched rows.
std::vector<float> touched_gradient(const Sets& sets, const std::vector<float>& dy, int64_t units,
                                    int64_t chunks, int64_t buckets, Pool& pool) {
  OwnIndex own(sets, chunks, buckets);
  touch(sets, own.index, pool);
  const int64_t num = own.num[0];
  std::vector<float> rows(own.ids.size() * units), dw(sets.num_tokens * units);
  row_gradients(own.index, dy.data(), units, rows.data(), pool);
  for (int64_t slot = 0; slot < static_cast<int64_t>(own.ids.size()); ++slot) {
    CHECK((own.ids[slot] >= 0) == (slot < num));
    if (slot < num) {
      std::copy_n(rows.data() + slot * units, units, dw.data() + own.ids[slot] * units);
    }
  }
  return dw;
}

// Some steps of Adam whose rows make up for what they missed, over the end of a short ring of rates:
// the same bits from any number of threads, from rows or from dy.
void check_updates(Random& random, std::vector<Pool*> pools) {
  constexpr int64_t R = 7, S = 2, L = 4;
  const std::vector<float> decays(2 * (R + 1), 0.8f), centers(S, 0.9f), terms(S * kTerms * L, 0.1f);
  const uint64_t seed = random();
  const int64_t num_steps = draw(random, 1, 20);
  std::vector<std::vector<float>> first;
  for (size_t p = 0; p < pools.size(); ++p) {
    Random own(seed);  // the same steps for every pool
    const Input shape = draw_input(own, true);
    const int64_t V = shape.num_tokens, H = shape.units;
    std::vector<float> tables[3] = {std::vector<float>(V * H, 0.5f), std::vector<float>(V * H),
                                    std::vector<float>(V * H)};
    std::vector<Bfloat16> halves(V * H, Bfloat16{0x3f00});  // 0.5
    std::vector<Int64> last(V, 0);
    std::vector<float> rates(R);
    const Table table = {tables[0].data(), static_cast<int>(V), static_cast<int>(H),
                         {tables[1].data(), tables[2].data()}, last.data(), rates.data(), R};
    const auto row_of = [&](int64_t step, bool all) {
      return CatchUp{table, decays.data(), centers.data(), terms.data(), 1e-3f, S, L, all, step};
    };
    for (int64_t step = 1; step <= num_steps; ++step) {
      Input input = draw_input(own, true);
      for (int32_t& id : input.values) id = static_cast<int32_t>(std::abs(int64_t{id}) % V);
      input.num_tokens = V;
      const Sets sets = input.sets(false);
      std::normal_distribution<float> normal;
      std::vector<float> dy(sets.num_rows * H), rows(V * H);
      for (float& element : dy) element = normal(own);
      OwnIndex touched(sets, draw(own, 1, 4), int64_t{1} << draw(own, 0, 3));
      touch(sets, touched.index, *pools[p]);
      const int64_t num = touched.num[0];
      catch_up(row_of(step - 1, false), touched.ids.data(), num, *pools[p]);
      const float rate = 0.01f + 0.001f * static_cast<float>(step % 5);
      const Update update = {table, kExactAdam, 0.2f, 0.05f, 1e-3f, step, rate, 0.5f};
      rows.resize(std::max<size_t>(rows.size(), touched.ids.size() * H));
      row_gradients(touched.index, dy.data(), H, rows.data(), *pools[p]);
      const bool from_dy = draw(random, 0, 1);
      update_rows<float>(update, touched.index, from_dy ? dy.data() : rows.data(), from_dy, *pools[p]);
      const Table half = {halves.data(), static_cast<int>(V), static_cast<int>(H)};
      const Update halved = {half, kSgd, 0.2f, 0.05f, 1e-3f, step, rate, 0.5f};
      update_rows<Bfloat16>(halved, touched.index, dy.data(), true, *pools[p]);
    }
    catch_up(row_of(num_steps, true), nullptr, 0, *pools[p]);
    std::vector<std::vector<float>> got(std::begin(tables), std::end(tables));
    got.push_back(widened(halves));
    if (p == 0) first = got;
    CHECK(got == first);
  }
}

}  // namespace
