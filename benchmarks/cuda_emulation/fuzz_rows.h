// The touched rows of a random batch, their gradients and updates: a part of fuzz.cc, in its namespace.

// An update of a row in double precision; `slots` are the row's own.
void updated(int kind, const float* scalars, const float* gradient, std::vector<double>& row,
             std::vector<double> (&slots)[2]) {
  const double rate = scalars[0], epsilon = scalars[3], factor = scalars[4];
  const size_t H = row.size();
  double mean = 0;
  for (size_t h = 0; h < H; ++h) mean += std::pow(factor * gradient[h], 2) / static_cast<double>(H);
  if (kind == multi_hot::kRowAdagrad) slots[0][0] += mean;
  for (size_t h = 0; h < H; ++h) {
    const double g = factor * gradient[h];
    if (kind >= multi_hot::kLazyAdam) {
      slots[0][h] += (g - slots[0][h]) * scalars[1];
      slots[1][h] += (g * g - slots[1][h]) * scalars[2];
      row[h] -= rate * slots[0][h] / (std::sqrt(slots[1][h]) + epsilon);
    } else {
      row[h] -= rate * g / (kind == multi_hot::kSgd ? 1.0 : std::sqrt(slots[0][0] + epsilon));
    }
  }
}

// Constants of exact Adam's catch-up, as `series` of table_rules.py has them, for betas 0.9 and 0.999.
struct Series {
  static constexpr int R = 64, L = 20, S = 4;
  std::vector<float> decays, centers, terms;

  Series() {
    for (const double beta : {0.9, 0.999}) {
      for (int i = 0; i <= R; ++i) decays.push_back(static_cast<float>(std::pow(beta, i)));
    }
    for (int s = 0; s < S; ++s) {
      const auto u = [s](int k) { return std::pow(0.999, (s * L + k + 1) / 2.0); };
      const double center = (u(0) + u(L - 1)) / 2;
      centers.push_back(static_cast<float>(center));
      for (int j = 0; j < multi_hot::kTerms; ++j) {
        for (int k = 0; k < L; ++k) {
          const int i = s * L + k + 1;
          const double first = i <= R ? std::pow(0.9, i) : 0.0;
          terms.push_back(static_cast<float>(first * std::pow(u(k) / center - 1, j)));
        }
      }
    }
  }
};

// What is kept of exact Adam's steps up to `now`, whose rows make up for what they missed.
struct Past {
  std::vector<long long> last;
  std::vector<float> rates;
  int all;

  Past(Random& random, int V, long long now) : all(draw(random, 0, 3) == 0) {
    for (int id = 0; id < V; ++id) {
      const bool is_new = draw(random, 0, 3) == 0;
      last.push_back(is_new ? 0 : std::max<long long>(1, now - draw(random, 0, Series::R)));
    }
    for (int i = 0; i < Series::R; ++i) {
      rates.push_back(std::uniform_real_distribution<float>(0.5e-3f, 1.5e-3f)(random));
    }
  }
  bool is_whole(long long now) const { return all != 0 || now % Series::R == 0; }

  // The steps one after another.
  void make_up(int id, long long now, std::vector<double>& row,
               std::vector<double> (&moments)[2]) const {
    for (long long step = last[id]; last[id] > 0 && step < now; ++step) {
      for (size_t h = 0; h < row.size(); ++h) {
        moments[0][h] *= 0.9;
        moments[1][h] *= 0.999;
        row[h] -= rates[step % Series::R] * moments[0][h] / (std::sqrt(moments[1][h]) + 1e-7);
      }
    }
  }
};

// One step of a random optimizer, in two orders; rows that are not touched keep their bits.
template <class T>
void check_update(Random& random, const char* type, const std::vector<int>& ids, int num, int V, int H,
                  const std::vector<float>& gradients) {
  static const Series series;
  // Rows of 16 bits are not exact.
  const int kind = static_cast<int>(draw(random, 0, sizeof(T) == 2 ? 2 : 3));
  const int active = draw(random, 0, 9) > 0;
  const long long step = draw(random, 1, one_of<int64_t>(random, {3, 200, int64_t{1} << 40}));
  const float scalars[] = {0.01f, 0.1f, 0.001f, 1e-7f, 0.5f};
  const auto table = random_matrix<T>(random, int64_t{V} * H);
  const size_t width = kind >= multi_hot::kLazyAdam ? H : 1;
  std::vector<float> slots(kind == multi_hot::kSgd ? 0 : V * width);
  for (float& x : slots) x = std::abs(std::normal_distribution<float>()(random));
  const Past past(random, V, step - 1);
  const bool is_exact = kind == multi_hot::kExactAdam;
  std::vector<T> first;
  for (int turn = 0; turn < 2; ++turn) {
    std::vector<T> own = table;
    std::vector<float> own_slots[] = {slots, slots};
    std::vector<long long> last = past.last;
    std::vector<float> rates = past.rates;
    EmulatedQueue queue = {random()};
    const long long done = step - 1;
    const int n = static_cast<int>(ids.size());
    const multi_hot::CatchUpArguments catch_up = {
        &active, &past.all, &done, ids.data(), &num, series.decays.data(), series.centers.data(),
        series.terms.data(), reinterpret_cast<float*>(own.data()),
        {own_slots[0].data(), own_slots[1].data()}, last.data(), rates.data(), 1e-7f, V, H,
        Series::R, Series::S, Series::L};
    if (is_exact) CHECK(run_catch_up(queue, n, catch_up).empty());
    const multi_hot::UpdateArguments arguments = {
        &active, scalars, &step, gradients.data(), ids.data(), &num, own.data(),
        {own_slots[0].data(), own_slots[1].data()}, last.data(), rates.data(), H, kind, Series::R};
    CHECK(run_update(queue, type, n, arguments).empty());
    if (turn == 0) first = own;
    CHECK(std::memcmp(own.data(), first.data(), own.size() * sizeof(T)) == 0);
    std::vector<int> slot_of(V, -1);
    for (int slot = 0; active != 0 && slot < num; ++slot) slot_of[ids[slot]] = slot;
    for (int id = 0; id < V; ++id) {
      std::vector<double> row(H), of_row[2];
      for (int h = 0; h < H; ++h) row[h] = multi_hot::widen(table[id * H + h]);
      for (int s = 0; s < 2 && !slots.empty(); ++s) {
        of_row[s].assign(slots.begin() + id * width, slots.begin() + (id + 1) * width);
      }
      const bool makes_up = is_exact && active != 0 && (past.is_whole(done) || slot_of[id] >= 0);
      if (makes_up) past.make_up(id, done, row, of_row);
      const bool changes = makes_up || slot_of[id] >= 0;
      const bool is_seen = makes_up && past.last[id] > 0 && done > past.last[id];
      CHECK(last[id] == (is_exact && slot_of[id] >= 0 ? step : is_seen ? done : past.last[id]));
      if (slot_of[id] >= 0) updated(kind, scalars, &gradients[slot_of[id] * H], row, of_row);
      for (int h = 0; h < H; ++h) {
        const double found = multi_hot::widen(own[id * H + h]);
        // Up or down by chance, so anything within a step of bfloat16.
        const double rounding = !changes ? 0 : sizeof(T) == 2 ? 0x1p-7 : 1e-6;
        CHECK(std::abs(found - row[h]) <= rounding * (std::abs(row[h]) + (sizeof(T) == 4)));
      }
      const int num_slots = kind == multi_hot::kSgd ? 0 : kind >= multi_hot::kLazyAdam ? 2 : 1;
      for (int s = 0; s < num_slots; ++s) {
        for (size_t h = 0; h < width; ++h) {
          CHECK(std::abs(own_slots[s][id * width + h] - of_row[s][h]) <=
                (changes ? 1e-5 : 0) * (std::abs(of_row[s][h]) + 1));
        }
      }
    }
  }
}

// The index and the gradients, in two orders; `touched` are the ids, ascending, and `sums` [V, H] the
// gradient. A batch that is wrong has NaN for all of it.
void check_touched(Random& random, const multi_hot::DeviceSets& sets, const std::vector<float>& dy,
                   int H, bool any_wrong, const std::vector<int>& touched,
                   const std::vector<double>& sums, const std::vector<double>& magnitudes,
                   const multi_hot::Division& division) {
  const int N = sets.num_values, n = std::min(N, sets.num_tokens);
  const multi_hot::Workspace of_index(N, sets.num_tokens, 0, division);
  const multi_hot::RowWorkspace of_rows(N, H, division);
  std::vector<int> first_ids;
  std::vector<float> first_rows;
  float first_squares = 0;
  for (int turn = 0; turn < 2; ++turn) {
    const int garbage = static_cast<int>(random());
    std::vector<int> ids(n, garbage), slots(N + 1, garbage), rows(N, garbage), num(1, garbage);
    std::vector<int> index_space(of_index.size, garbage), rows_space(of_rows.size, garbage);
    std::vector<float> weights(sets.weights == nullptr ? 0 : N, NAN);
    std::vector<float> gradients(static_cast<size_t>(n) * H, NAN), squares(1, NAN);
    const multi_hot::Touched own = {ids.data(), slots.data(), rows.data(), num.data(),
                                    sets.weights == nullptr ? nullptr : weights.data(), N, n};
    EmulatedQueue queue = {random()};
    CHECK(run_touch(queue, sets, own, index_space.data(), division).empty());
    CHECK(run_row_gradients(queue, own, dy.data(), H, gradients.data(), rows_space.data(), division)
              .empty());
    CHECK(run_squares(queue, own, gradients.data(), H, squares.data(), rows_space.data(), division)
              .empty());
    CHECK(0 <= num[0] && num[0] <= n);
    for (int i = num[0]; i < n; ++i) CHECK(ids[i] == -1);
    gradients.resize(static_cast<size_t>(num[0]) * H);
    if (any_wrong) {
      for (int i = 0; i < num[0]; ++i) CHECK(0 <= ids[i] && ids[i] < sets.num_tokens);
      for (const float x : gradients) CHECK(std::isnan(x));
      CHECK(num[0] == 0 || std::isnan(squares[0]));
      continue;
    }
    CHECK(static_cast<size_t>(num[0]) == touched.size());
    CHECK(std::equal(touched.begin(), touched.end(), ids.begin()));
    double of_squares = 0;
    for (size_t i = 0; i < gradients.size(); ++i) {
      const size_t place = static_cast<size_t>(ids[i / H]) * H + i % H;
      CHECK(is_close(gradients[i], sums[place], magnitudes[place], 0x1p-23));
      of_squares += static_cast<double>(gradients[i]) * gradients[i];
    }
    CHECK(std::abs(squares[0] - of_squares) <= 1e-5 * of_squares);
    if (turn == 0) first_ids = ids, first_rows = gradients, first_squares = squares[0];
    CHECK(ids == first_ids && squares[0] == first_squares);
    CHECK(first_rows.empty() || std::memcmp(gradients.data(), first_rows.data(),
                                            gradients.size() * sizeof(float)) == 0);
    if (turn == 1 && sets.num_tokens <= 4000) {  // for the time's sake
      const bool is_half = draw(random, 0, 1) == 0;
      if (is_half) check_update<multi_hot::BFloat16>(random, "bf16", ids, num[0], sets.num_tokens, H, gradients);
      else check_update<multi_hot::Float>(random, "f32", ids, num[0], sets.num_tokens, H, gradients);
    }
  }
}
