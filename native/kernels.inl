// The kernels, written once. A kernels_<set>.cpp includes this file inside its own namespace after simd_<set>.hpp.
//
// Columns are walked in chunks of at most 8 blocks of 16 lanes, the last block partial, so that a row's sums stay in
// registers whatever K is. `template <int Blocks>` makes the loops over blocks straight code.

namespace {

constexpr int kLanes = 16;
constexpr int kMaxBlocks = 8;

struct Columns { int64_t begin; int tail; };  // first column; lanes of the last block

template <int Blocks> struct Row {
  F32 block[Blocks];

  template <class Number> static inline Row load_from(const Number* p, int tail) {
    Row r;
    for (int b = 0; b < Blocks - 1; ++b) r.block[b] = load(p + b * kLanes);
    r.block[Blocks - 1] = load_partial(p + (Blocks - 1) * kLanes, tail);
    return r;
  }
  static inline Row zero() {
    Row r;
    for (int b = 0; b < Blocks; ++b) r.block[b] = set1(0.0f);
    return r;
  }
  inline void store_to(float* p, int tail) const {
    for (int b = 0; b < Blocks - 1; ++b) store(p + b * kLanes, block[b]);
    store_partial(p + (Blocks - 1) * kLanes, block[Blocks - 1], tail);
  }
  inline void add(const Row& other) {
    for (int b = 0; b < Blocks; ++b) block[b] = block[b] + other.block[b];
  }
  inline void subtract_scaled(F32 scale, const Row& other) {
    for (int b = 0; b < Blocks; ++b) block[b] = block[b] - scale * other.block[b];
  }
};

// v * (a - b), summed over blocks; the sum over lanes is still to come.
template <int Blocks> inline F32 difference_products(const Row<Blocks>& v, const Row<Blocks>& a, const Row<Blocks>& b) {
  F32 sum = v.block[0] * (a.block[0] - b.block[0]);
  for (int k = 1; k < Blocks; ++k) sum = sum + v.block[k] * (a.block[k] - b.block[k]);
  return sum;
}

template <int Blocks, class Number> inline void prefetch_row(const Number* p) {
  constexpr int per_line = 64 / static_cast<int>(sizeof(Number)) / kLanes;  // blocks of a cache line
  for (int b = 0; b < Blocks; b += per_line) __builtin_prefetch(p + b * kLanes);
}

// Calls body.template operator()<Number>() with the type of the rows' numbers.
template <class Body> inline void for_type(RowType type, const Body& body) {
  if (type == RowType::float32) {
    body.template operator()<float>();
  } else {
    body.template operator()<Bfloat16>();
  }
}

// Calls body.template run<Blocks>(columns) for each chunk of columns.
template <class Body> inline void for_columns(int64_t first, int64_t n_outputs, const Body& body) {
  for (int64_t begin = first; begin < n_outputs; begin += kMaxBlocks * kLanes) {
    const int64_t width = n_outputs - begin < kMaxBlocks * kLanes ? n_outputs - begin : kMaxBlocks * kLanes;
    const int blocks = static_cast<int>((width + kLanes - 1) / kLanes);
    const Columns columns{begin, static_cast<int>(width - (blocks - 1) * kLanes)};
    switch (blocks) {
      case 1: body.template run<1>(columns); break;
      case 2: body.template run<2>(columns); break;
      case 3: body.template run<3>(columns); break;
      case 4: body.template run<4>(columns); break;
      case 5: body.template run<5>(columns); break;
      case 6: body.template run<6>(columns); break;
      case 7: body.template run<7>(columns); break;
      default: body.template run<8>(columns); break;
    }
  }
}

template <class Body> inline void for_columns(int64_t n_outputs, const Body& body) { for_columns(0, n_outputs, body); }

// The same in wider chunks, where the registers hold them: for rows that are only read and added.
template <class Body> inline void for_long_columns(int64_t n_outputs, const Body& body) {
  constexpr int64_t wide = kSumsInRegisters * kLanes;
  int64_t begin = 0;
  if constexpr (kSumsInRegisters > kMaxBlocks) {
    for (; begin + wide <= n_outputs; begin += wide) body.template run<kSumsInRegisters>(Columns{begin, kLanes});
  }
  for_columns(begin, n_outputs, body);
}

// ---- hash: sixteen positions at a time, so that a comparison is two loads and no gather -------------------------

struct Powers {
  int32_t bit[32], number[32];
  constexpr Powers() : bit(), number() {
    for (int r = 0; r < 32; ++r) {
      bit[r] = static_cast<int32_t>(uint32_t{1} << r);
      number[r] = r;
    }
  }
};
constexpr Powers kPowers;  // in memory: to spread a number over lanes costs a load then, and no arithmetic

// A block of positions of one table. Two blocks go side by side, so that one's comparisons fill the gaps of the other's.
struct Nearest {
  I32 row = set1(int32_t{0});
  I32 pair = set1(int32_t{0});
  F32 smallest = set1(__builtin_inff());

  template <bool with_pair> inline void compare(F32 u, int r) {
    row = or_where(u > set1(0.0f), row, set1(kPowers.bit[r]));
    if (!with_pair) return;
    const F32 magnitude = abs(u);
    pair = select(smallest > magnitude, set1(kPowers.number[r]), pair);
    smallest = min(magnitude, smallest);
  }
  // The smallest u itself, its sign taken from its bit; the first u where none is smaller than infinity.
  inline F32 u(F32 first) const {
    const F32 nearest = select(bit_of(row, pair), smallest, set1(0.0f) - smallest);
    return select(set1(__builtin_inff()) > smallest, nearest, first);
  }
};

template <bool with_pair> inline void store_block(const HashTile& a, int64_t i, int64_t t, const Nearest& found) {
  int32_t* row_out = a.row + i * a.plane + t;
  const float* at = a.latencies + t;
  const F32 u = found.u(load(at + a.offset_a[i * a.n_comparisons]) - load(at + a.offset_b[i * a.n_comparisons]));
  const int64_t left = a.n_positions - t;
  if (left >= kLanes) {
    store(row_out, found.row);
    if (with_pair) {
      store_u8(a.pair + i * a.plane + t, found.pair);
      store(a.u + i * a.plane + t, u);
    }
    return;
  }
  int32_t rows[kLanes];
  uint8_t pairs[kLanes];
  store(rows, found.row);
  store_u8(pairs, found.pair);
  for (int64_t l = 0; l < left; ++l) row_out[l] = rows[l];
  if (with_pair) {
    for (int64_t l = 0; l < left; ++l) a.pair[i * a.plane + t + l] = pairs[l];
    store_partial(a.u + i * a.plane + t, u, static_cast<int>(left));
  }
}

template <bool with_pair> void hash_tables(const HashTile& a) {
  for (int64_t i = 0; i < a.n_tables; ++i) {
    const int32_t* offset_a = a.offset_a + i * a.n_comparisons;
    const int32_t* offset_b = a.offset_b + i * a.n_comparisons;
    const int n_comparisons = static_cast<int>(a.n_comparisons);
    int64_t t = 0;
    for (; t + kLanes < a.n_positions; t += 2 * kLanes) {
      const float* at = a.latencies + t;
      Nearest first, second;
      for (int r = 0; r < n_comparisons; ++r) {
        first.compare<with_pair>(load(at + offset_a[r]) - load(at + offset_b[r]), r);
        second.compare<with_pair>(load(at + kLanes + offset_a[r]) - load(at + kLanes + offset_b[r]), r);
      }
      store_block<with_pair>(a, i, t, first);
      store_block<with_pair>(a, i, t + kLanes, second);
    }
    if (t < a.n_positions) {
      const float* at = a.latencies + t;
      Nearest only;
      for (int r = 0; r < n_comparisons; ++r) {
        only.compare<with_pair>(load(at + offset_a[r]) - load(at + offset_b[r]), r);
      }
      store_block<with_pair>(a, i, t, only);
    }
  }
}

void hash_tile(const HashTile& a) { a.pair ? hash_tables<true>(a) : hash_tables<false>(a); }

// ---- gather: read one row per table and add ---------------------------------------------------------------------

// Sixteen positions at a time, of up to kTablesListed tables: where their rows begin is listed first, in the order in
// which they will be read. Row numbers stand table by table, at distances that may be powers of two: read position by
// position they would push one another out of the cache. And the list says which rows come next, so that these are asked
// for as far ahead as the memory wants it, whatever the number of tables.
//
// Of short rows the sums of several positions stand in registers together: they hide one another's latency. A row longer
// than a chunk of columns is read to its end before the next position's, as the processor looks ahead in memory.
// Additions run over tables in ascending order for any grouping.
constexpr int64_t kTablesListed = 64;
constexpr int64_t kBytesAhead = 8 * 1024;        // of rows, from asking for them to adding them
constexpr int64_t kPrefetchAbove = 1024 * 1024;  // bytes of all tables
constexpr int64_t kMostAhead = kBytesAhead / 32;  // rows; the shortest have 32 bytes of a block

// Tables that do not fit the second-level cache together are read in groups that do, where positions are so many that
// they come back to the same rows: the sums go to the cache and back for each group.
constexpr int64_t kGroupBytes = 512 * 1024;
constexpr int64_t kBlockBytes = 384 * 1024;
constexpr int64_t kLeastTables = 12;  // of a group, where rows are longer than a block: of fewer, sums cost more than rows bring

template <int Blocks> constexpr int together() {
  int n = 1;
  while (2 * n * Blocks <= kSumsInRegisters && 2 * n <= kLanes) n *= 2;
  return n;
}

// The rows of positions [p, p + count) in tables [i, i + n), where they begin: `together` positions after another, a
// table's side by side; then what is left of the positions, one by one.
struct RowList {
  int64_t p, count, i, n;
  int64_t* at;

  template <int together> void fill(const GatherSum& a) const {
    const int64_t stride = a.row_stride, table_size = a.n_rows * stride, n_tables = n, plane = a.plane;
    const int64_t n_places = n * count, whole = count / together * together;
    const int32_t* const which = a.which ? a.which + i : nullptr;
    const int32_t* row = a.row + i * plane + p;
    int64_t* const places = at;
    for (int64_t t = 0; t < n_tables; ++t, row += plane) {
      const int64_t table = (which ? which[t] : i + t) * table_size;
      int64_t s = 0;
      for (int64_t* out = places + t * together; s < whole; s += together, out += n_tables * together) {
        for (int k = 0; k < together; ++k) out[k] = table + row[s + k] * stride;
      }
      for (; s < count; ++s) places[s * n_tables + t] = table + row[s] * stride;
    }
    for (int64_t m = n_places, end = count < kLanes ? m + kMostAhead : kMostAhead; m < end; ++m) places[m] = 0;
  }
};

template <class Number, bool prefetch> struct GatherBody {
  GatherSum a;
  RowList list;

  template <int Blocks> [[gnu::always_inline]] Row<Blocks> start(int64_t p, Columns c) const {
    if (list.i > 0) return Row<Blocks>::load_from(a.y + p * a.y_stride + c.begin, c.tail);
    if (a.residual) return Row<Blocks>::load_from(a.residual + p * a.y_stride + c.begin, c.tail);
    return Row<Blocks>::zero();
  }

  // Of positions p + k; spelt out for each k, so that every sum stays in registers. After the rows at `at` come those at
  // `then`, from column `begin_then` on.
  template <int Blocks, int... k>
  [[gnu::always_inline]] void add_rows(int64_t p, const int64_t* at, const int64_t* then, int64_t begin_then, Columns c,
                                       std::integer_sequence<int, k...>) const {
    constexpr int64_t n_together = sizeof...(k), bytes = Blocks * kLanes * int64_t{sizeof(Number)} * n_together;
    constexpr int64_t most_ahead = kBytesAhead > bytes ? kBytesAhead / bytes : 1;  // in tables
    const Number* rows = static_cast<const Number*>(a.tables) + c.begin;
    const int64_t ahead = !prefetch ? 0 : list.n < most_ahead ? list.n : most_ahead;
    const int64_t* const end = at + list.n * n_together;
    Row<Blocks> sum[] = {start<Blocks>(p + k, c)...};
    for (const int64_t* const last = end - ahead * n_together; at < last; at += n_together) {
      if (prefetch) (prefetch_row<Blocks>(rows + at[ahead * n_together + k]), ...);
      (sum[k].add(Row<Blocks>::load_from(rows + at[k], c.tail)), ...);
    }
    if (prefetch) {
      const Number* rows_then = static_cast<const Number*>(a.tables) + begin_then;
      for (; at < end; at += n_together, then += n_together) {
        (prefetch_row<Blocks>(rows_then + then[k]), ...);
        (sum[k].add(Row<Blocks>::load_from(rows + at[k], c.tail)), ...);
      }
    }
    (sum[k].store_to(a.y + (p + k) * a.y_stride + c.begin, c.tail), ...);
  }
};

// Rows of one chunk of columns.
template <class Number, bool prefetch> struct GatherShort {
  const GatherSum& a;
  const RowList& list;
  const RowList& next;

  template <int Blocks> void run(Columns c) const {
    constexpr int n_together = together<Blocks>();
    const GatherBody<Number, prefetch> body{a, list};  // copies, which no store can change
    const int64_t* at = list.at;
    const int64_t* const end = at + list.n * list.count;
    const int64_t* const next_at = next.at;
    int64_t p = list.p;
    for (const int64_t last = p + list.count / n_together * n_together; p < last; p += n_together) {
      const int64_t* const then = at + list.n * n_together;
      body.template add_rows<Blocks>(p, at, then < end ? then : next_at, c.begin, c,
                                     std::make_integer_sequence<int, n_together>());
      at = then;
    }
    for (; at < end; ++p) {
      const int64_t* const then = at + list.n;
      body.template add_rows<Blocks>(p, at, then < end ? then : next_at, c.begin, c, std::make_integer_sequence<int, 1>());
      at = then;
    }
  }
};

// One position's rows of several chunks.
template <class Number, bool prefetch> struct GatherLong {
  const GatherSum& a;
  const RowList& list;
  int64_t k;             // position of the list
  const int64_t* then;   // the next position's

  template <int Blocks> void run(Columns c) const {
    const int64_t* at = list.at + k * list.n;
    const int64_t end = c.begin + Blocks * kLanes;
    const bool last = end >= a.n_outputs;
    GatherBody<Number, prefetch>{a, list}.template add_rows<Blocks>(list.p + k, at, last ? then : at, last ? 0 : end, c,
                                                                    std::make_integer_sequence<int, 1>());
  }
};

// Rows of one block in tables that the cache holds: the positions together use up a line of row numbers, and a list would
// cost more than it brings.
template <class Number> struct GatherNear {
  GatherSum a;
  int64_t i_begin, i_end;

  template <int... k> [[gnu::always_inline]] void add_rows(int64_t p, std::integer_sequence<int, k...>) const {
    const GatherBody<Number, false> body{a, {p, 1, i_begin, i_end - i_begin, nullptr}};
    const Columns c{0, static_cast<int>(a.n_outputs)};
    const int64_t table_size = a.n_rows * a.row_stride;
    const Number* const tables = static_cast<const Number*>(a.tables);
    Row<1> sum[] = {body.template start<1>(p + k, c)...};
    for (int64_t i = i_begin; i < i_end; ++i) {
      const int32_t* row = a.row + i * a.plane + p;
      const Number* table = tables + (a.which ? a.which[i] : i) * table_size;
      (sum[k].add(Row<1>::load_from(table + row[k] * a.row_stride, c.tail)), ...);
    }
    (sum[k].store_to(a.y + (p + k) * a.y_stride, c.tail), ...);
  }

  void run(int64_t p, int64_t p_end) const {
    constexpr int n_together = together<1>();
    const GatherNear own = *this;  // which nobody else sees: GCC reads what is not so again after every store
    for (; p + n_together <= p_end; p += n_together) own.add_rows(p, std::make_integer_sequence<int, n_together>());
    for (; p < p_end; ++p) own.add_rows(p, std::make_integer_sequence<int, 1>());
  }
};

struct FillBody {
  const GatherSum& a;
  const RowList& list;
  template <int Blocks> void run(Columns) const { list.fill<together<Blocks>()>(a); }
};

template <class Number, bool prefetch> void gather_rows(const GatherSum& a, int64_t p_begin, int64_t p_end) {
  const bool is_long = a.n_outputs > kMaxBlocks * kLanes;
  const int64_t table_bytes = a.n_rows * a.row_stride * static_cast<int64_t>(sizeof(Number));
  const int64_t fitting = kGroupBytes / (table_bytes + 1);
  const int64_t least = a.n_outputs > kLanes ? kLeastTables : 1;
  const bool grouped = fitting >= least && fitting < a.n_tables && 2 * a.n_rows <= p_end - p_begin;
  const int64_t group = grouped ? fitting : a.n_tables;
  const int64_t block = grouped ? kBlockBytes / (a.y_stride * static_cast<int64_t>(sizeof(float))) + 1 : p_end - p_begin;
  alignas(64) int64_t places[2][kLanes * kTablesListed + kMostAhead];
  for (int64_t begin = p_begin; begin < p_end; begin += block) {
    const int64_t end = begin + block < p_end ? begin + block : p_end;
    for (int64_t i_begin = 0; i_begin < a.n_tables; i_begin += group) {
      const int64_t i_end = i_begin + group < a.n_tables ? i_begin + group : a.n_tables;
      if (!prefetch && a.n_outputs <= kLanes) {
        GatherNear<Number>{a, i_begin, i_end}.run(begin, end);
        continue;
      }
      const int64_t parts = (i_end - i_begin + kTablesListed - 1) / kTablesListed;
      const int64_t n_lists = (end - begin + kLanes - 1) / kLanes * parts;
      const auto make = [&](int64_t q) {
        const int64_t p = begin + q / parts * kLanes, i = i_begin + q % parts * kTablesListed;
        const RowList list{p, end - p < kLanes ? end - p : kLanes, i, i_end - i < kTablesListed ? i_end - i : kTablesListed,
                           places[q % 2]};
        if (is_long) {
          list.fill<1>(a);
        } else {
          for_columns(a.n_outputs, FillBody{a, list});
        }
        return list;
      };
      RowList next = make(0);
      for (int64_t q = 0; q < n_lists; ++q) {
        const RowList list = next;
        if (q + 1 < n_lists) next = make(q + 1);
        if (!is_long) {
          for_columns(a.n_outputs, GatherShort<Number, prefetch>{a, list, next});
          continue;
        }
        for (int64_t k = 0; k < list.count; ++k) {
          const int64_t* const then = k + 1 < list.count ? list.at + (k + 1) * list.n : next.at;
          for_long_columns(a.n_outputs, GatherLong<Number, prefetch>{a, list, k, then});
        }
      }
    }
  }
}

void gather_sum(const GatherSum& a, int64_t p_begin, int64_t p_end) {
  for_type(a.type, [&]<class Number>() {
    const int64_t bytes = a.n_tables * a.n_rows * a.row_stride * static_cast<int64_t>(sizeof(Number));
    if (bytes > kPrefetchAbove) {
      gather_rows<Number, true>(a, p_begin, p_end);
    } else {
      gather_rows<Number, false>(a, p_begin, p_end);
    }
  });
}

// ---- pairs of positions: their rows, and whose gains are whose --------------------------------------------------

// Sixteen pairs of one query: their rows and their neighbour rows, one wherever there may be one.
struct SixteenPairs {
  alignas(64) int32_t row[kLanes], flipped[kLanes], flipped_code[kLanes];
};

struct QueryPairs {
  const TablePairs& a;
  const PairRun& run;
  I32 query = set1(a.query[run.p]);

  inline I32 rows(int64_t j) const { return query | load_i32(a.key + run.key + j) | load_i32(a.code + run.code + j); }
  inline I32 flip(int64_t j) const {
    const Mask is_query = load(a.key_distance + run.key + j) > set1(a.query_distance[run.p]);
    return select(is_query, set1(a.query_flip[run.p]), load_i32(a.key_flip + run.key + j));
  }
  // `yes` where the relative position is nearest to flipping, else `no`.
  template <class Lanes> inline Lanes where_code_is_nearest(int64_t j, Lanes yes, Lanes no) const {
    const F32 code_distance = load(a.code_distance + run.code + j);
    const Mask before_query = set1(a.query_distance[run.p]) > code_distance;
    const Mask before_key = load(a.key_distance + run.key + j) > code_distance;
    return select(before_query, select(before_key, yes, no), no);
  }
  template <bool with_flips> inline void list(int64_t j, SixteenPairs& out) const {
    const I32 here = rows(j);
    store(out.row, here);
    if (!with_flips) return;
    store(out.flipped, here ^ flip(j));
    store(out.flipped_code, here ^ load_i32(a.code_flip + run.code + j));
  }
  inline int count(int64_t j) const { return static_cast<int>(run.n - j < kLanes ? run.n - j : kLanes); }
};

void list_pairs(const TablePairs& a, const PairRun& run) {
  const TablePairs own = a;  // which no store can change
  const QueryPairs pairs{own, run};
  const I32 source = set1(run.p), none = set1(int32_t{-1});
  for (int64_t j = 0; j < run.n; j += kLanes) {
    const I32 here = pairs.rows(j), flipped = here ^ pairs.flip(j);
    const I32 flipped_code = here ^ load_i32(own.code_flip + run.code + j);
    store(own.row + run.m + j, here);
    store(own.source + run.m + j, source);
    store(own.flipped[0] + run.m + j, own.nearest ? pairs.where_code_is_nearest(j, none, flipped) : flipped);
    store(own.flipped[1] + run.m + j, pairs.where_code_is_nearest(j, flipped_code, none));
  }
}

// A run has so few rows that the processor gets to the next one's late: they are asked for in between.
template <class Number> struct SumPairsBody {
  const TablePairs& a;
  const TableRows& rows;
  const PairRun& run_of;
  const PairRun& next;
  float* y;

  template <int Blocks> void run(Columns c) const {
    const Number* table = static_cast<const Number*>(rows.table) + c.begin;
    const int64_t stride = rows.row_stride;
    const QueryPairs pairs{a, run_of}, ahead{a, next};
    SixteenPairs these, those;
    Row<Blocks> sum = Row<Blocks>::load_from(y + c.begin, c.tail);
    for (int64_t j = 0; j < run_of.n || j < next.n; j += kLanes) {
      if (j < run_of.n) pairs.template list<false>(j, these);
      if (j < next.n) ahead.template list<false>(j, those);
      const int count = pairs.count(j), n_ahead = ahead.count(j);
      for (int l = 0; l < count || l < n_ahead; ++l) {
        if (l < n_ahead) prefetch_row<Blocks>(table + those.row[l] * stride);
        if (l < count) sum.add(Row<Blocks>::load_from(table + these.row[l] * stride, c.tail));
      }
    }
    sum.store_to(y + c.begin, c.tail);
  }
};

void sum_pairs(const TablePairs& a, const TableRows& rows, const PairRun& run, const PairRun& next, float* y) {
  for_type(rows.type, [&]<class Number>() {
    for_columns(rows.n_outputs, SumPairsBody<Number>{a, rows, run, next, y});
  });
}

template <class Number> struct PairGainsBody {
  const TablePairs& a;
  const TableRows& rows;
  const PairRun& run_of;
  const PairRun& next;
  const float* v;
  float* gain;
  float* code_gains;

  // Adds up the lanes of what waits, of the first columns or of further ones.
  template <class Masked>
  void put(const float* waiting, float* out, int count, bool first, const Masked& masked) const {
    float sums[kLanes];
    reduce_add_each(waiting, sums);
    F32 sum = load(sums);
    if (!first) sum = load_partial(out, count) + sum;
    store_partial(out, masked(sum), count);
  }

  template <int Blocks> void run(Columns c) const {
    const Number* table = static_cast<const Number*>(rows.table) + c.begin;
    const int64_t stride = rows.row_stride;
    const float* v_at = v + run_of.p * rows.n_outputs + c.begin;
    const Row<Blocks> v_row = Row<Blocks>::load_from(v_at, c.tail);
    prefetch_row<Blocks>(v + next.p * rows.n_outputs + c.begin);
    const QueryPairs pairs{a, run_of}, ahead{a, next};
    const F32 zero = set1(0.0f);
    SixteenPairs these, those;
    alignas(64) float products[kLanes * kLanes], code_products[kLanes * kLanes];
    for (int64_t j = 0; j < run_of.n || j < next.n; j += kLanes) {
      if (j < run_of.n) pairs.template list<true>(j, these);
      if (j < next.n) ahead.template list<true>(j, those);
      const int count = pairs.count(j), n_ahead = ahead.count(j);
      for (int l = 0; l < n_ahead || l < count; ++l) {
        if (l < n_ahead) {
          for (const int32_t* row : {those.row, those.flipped, those.flipped_code}) {
            prefetch_row<Blocks>(table + row[l] * stride);
          }
        }
        if (l >= count) continue;
        const Row<Blocks> here = Row<Blocks>::load_from(table + these.row[l] * stride, c.tail);
        const Row<Blocks> there = Row<Blocks>::load_from(table + these.flipped[l] * stride, c.tail);
        const Row<Blocks> there_by_code = Row<Blocks>::load_from(table + these.flipped_code[l] * stride, c.tail);
        store(products + l * kLanes, difference_products(v_row, there, here));
        store(code_products + l * kLanes, difference_products(v_row, there_by_code, here));
      }
      if (count <= 0) continue;
      for (int l = count; l < kLanes; ++l) {
        store(products + l * kLanes, zero);
        store(code_products + l * kLanes, zero);
      }
      if (gain) {
        put(products, gain + run_of.m + j, count, c.begin == 0, [&](F32 sum) {
          return a.nearest ? pairs.where_code_is_nearest(j, zero, sum) : sum;
        });
      }
      put(code_products, code_gains + run_of.m + j, count, c.begin == 0,
          [&](F32 sum) { return pairs.where_code_is_nearest(j, sum, zero); });
    }
  }
};

void pair_gains(const TablePairs& a, const TableRows& rows, const PairRun& run, const PairRun& next, const float* v,
                float* gain, float* code_gains) {
  for_type(rows.type, [&]<class Number>() {
    for_columns(rows.n_outputs, PairGainsBody<Number>{a, rows, run, next, v, gain, code_gains});
  });
}

struct AddToRowsBody {
  const float* v;
  int64_t n_outputs;
  const int32_t* place;
  int64_t n;
  float* merged;

  template <int Blocks> void run(Columns c) const {
    const int64_t stride = merged_stride(n_outputs);
    const Row<Blocks> v_row = Row<Blocks>::load_from(v + c.begin, c.tail);
    float* rows = merged + c.begin;
    for (int64_t j = 0; j < n; ++j) {
      float* row = rows + place[j] * stride;
      Row<Blocks> sum = Row<Blocks>::load_from(row, c.tail);
      sum.add(v_row);
      sum.store_to(row, c.tail);
    }
  }
};

void add_to_rows(const float* v, int64_t n_outputs, const int32_t* place, int64_t n, float* merged) {
  for_columns(n_outputs, AddToRowsBody{v, n_outputs, place, n, merged});
}

float route_pairs(const TablePairs& a, const PairRun& run, const float* gain, const float* code_gains, float* key_gain,
                  float* code_gain) {
  const F32 query_distance = set1(a.query_distance[run.p]), zero = set1(0.0f);
  const float* key_distance = a.key_distance + run.key;
  float of_query = 0.0f;
  for (int64_t j = 0; j < run.n; j += kLanes) {
    const int count = static_cast<int>(run.n - j < kLanes ? run.n - j : kLanes);
    float* key_out = key_gain + run.key + j;
    float* code_out = code_gain + run.code + j;
    const Mask is_query = load(key_distance + j) > query_distance;
    const F32 gains = load_partial(gain + run.m + j, count);
    store_partial(key_out, load_partial(key_out, count) + select(is_query, zero, gains), count);
    store_partial(code_out, load_partial(code_out, count) + load_partial(code_gains + run.m + j, count), count);
    float query_gains[kLanes];
    store(query_gains, select(is_query, gains, zero));
    for (int l = 0; l < count; ++l) of_query += query_gains[l];
  }
  return of_query;
}

// ---- backward: gains of the neighbour rows and the sums of equal rows' gradients --------------------------------

// Sixteen readings' products wait here to be summed over their lanes together.
class Gains {
 public:
  explicit Gains(bool first_columns) : first_columns_(first_columns) {}
  ~Gains() { if (count_ > 0) flush_few(); }

  inline void add(F32 products, float* gain) {
    store(waiting_ + count_ * kLanes, products);
    gain_[count_] = gain;
    if (++count_ == kLanes) flush();
  }
  float* nowhere() { return &nowhere_; }

 private:
  void flush() {
    float sums[kLanes];
    reduce_add_each(waiting_, sums);
    for (int l = 0; l < count_; ++l) *gain_[l] = first_columns_ ? sums[l] : *gain_[l] + sums[l];
    count_ = 0;
  }
  // What is left at the end, one by one to the same bits; apart, so that the loop before it stays short.
  [[gnu::noinline]] void flush_few() {
    for (int l = 0; l < count_; ++l) {
      const float sum = reduce_add(load(waiting_ + l * kLanes));
      *gain_[l] = first_columns_ ? sum : *gain_[l] + sum;
    }
  }

  alignas(64) float waiting_[kLanes * kLanes];
  float* gain_[kLanes];
  float nowhere_ = 0.0f;
  int count_ = 0;
  const bool first_columns_;
};

template <int Blocks, class Number>
inline void add_gains(const Readings& a, int64_t m, const Row<Blocks>& v, const Row<Blocks>& here, const Number* table,
                      Columns c, Gains& gains) {
  if (a.gain[0]) {
    const int32_t flipped = a.flipped[0][m];
    if (flipped >= 0) {
      const Number* there = table + int64_t{flipped} * a.row_stride;
      gains.add(difference_products(v, Row<Blocks>::load_from(there, c.tail), here), a.gain[0] + m);
    } else if (c.begin == 0) {
      a.gain[0][m] = 0.0f;
    }
  }
  if (a.gain[1]) {  // whether there is a second neighbour is chance, which no branch predicts: else row 0 goes nowhere
    const int32_t flipped = a.flipped[1][m];
    float* gain = a.gain[1] + m;
    if (c.begin == 0) *gain = 0.0f;
    const Number* there = table + int64_t{flipped < 0 ? 0 : flipped} * a.row_stride;
    gains.add(difference_products(v, Row<Blocks>::load_from(there, c.tail), here), flipped < 0 ? gains.nowhere() : gain);
  }
}

constexpr int64_t kReadingAhead = 16;

template <int Blocks, class Number>
inline void prefetch_neighbours(const Readings& a, int64_t m, const Number* table) {
  for (int f = 0; f < 2; ++f) {
    if (!a.gain[f]) continue;
    const int32_t flipped = a.flipped[f][m];
    prefetch_row<Blocks>(table + int64_t{flipped < 0 ? 0 : flipped} * a.row_stride);
  }
}

// Rows are asked for ahead only where the table, or all of v, lies outside the cache: within it the processor's own
// look-ahead reaches far enough, and asking costs more than it brings.
template <bool with_gains, class Number> struct MergeBody {
  const Readings& given;
  const RowGroups& given_groups;
  float* merged;

  template <int Blocks> void run(Columns c) const {
    const Readings a = given;  // copies, which no store can change
    const RowGroups groups = given_groups;
    const Number* table = static_cast<const Number*>(a.table) + c.begin;
    const float* v = a.v + c.begin;
    const int64_t stride = merged_stride(a.n_outputs);
    const bool v_far = !a.source && a.n_readings * a.v_stride * int64_t{sizeof(float)} > kSecondLevelBytes;
    const bool asks = v_far || (with_gains && a.far);
    Gains gains(c.begin == 0);
    for (int64_t q = 0; q < groups.n_groups; ++q) {
      if (q + kReadingAhead < groups.n_groups) {  // even without gains: the update comes next
        prefetch_row<Blocks>(table + int64_t{groups.rows[q + kReadingAhead]} * a.row_stride);
      }
      Row<Blocks> here = Row<Blocks>::zero();
      if (with_gains) here = Row<Blocks>::load_from(table + int64_t{groups.rows[q]} * a.row_stride, c.tail);
      Row<Blocks> sum = Row<Blocks>::zero();
      for (int64_t k = groups.begin[q]; k < groups.begin[q + 1]; ++k) {
        if (asks && k + kReadingAhead < a.n_readings) {
          const int64_t ahead = groups.order[k + kReadingAhead];
          if (with_gains && a.far) prefetch_neighbours<Blocks>(a, ahead, table);
          if (v_far) prefetch_row<Blocks>(v + ahead * a.v_stride);
        }
        const int64_t m = groups.order[k];
        const int64_t source = a.source ? a.source[m] : m;
        const Row<Blocks> v_row = Row<Blocks>::load_from(v + source * a.v_stride, c.tail);
        sum.add(v_row);
        if (with_gains) add_gains(a, m, v_row, here, table, c, gains);
      }
      sum.store_to(merged + q * stride + c.begin, c.tail);
    }
  }
};

void merge_rows(const Readings& a, const RowGroups& groups, float* merged) {
  for_type(a.type, [&]<class Number>() {
    if (a.gain[0] || a.gain[1]) {
      for_columns(a.n_outputs, MergeBody<true, Number>{a, groups, merged});
    } else {
      for_columns(a.n_outputs, MergeBody<false, Number>{a, groups, merged});
    }
  });
}

struct OnlineBody {
  const Readings& a;
  float rate;

  // Columns do not meet before the gain is summed, so a chunk may run through all readings before the next begins.
  template <int Blocks> void run(Columns c) const {
    float* table = static_cast<float*>(a.table) + c.begin;
    const float* v = a.v + c.begin;
    const F32 rate_lanes = set1(rate);
    Gains gains(c.begin == 0);
    for (int64_t m = 0; m < a.n_readings; ++m) {
      if (m + kReadingAhead < a.n_readings) {
        prefetch_neighbours<Blocks>(a, m + kReadingAhead, table);
        prefetch_row<Blocks>(table + int64_t{a.row[m + kReadingAhead]} * a.row_stride);
      }
      float* here_at = table + int64_t{a.row[m]} * a.row_stride;
      const int64_t source = a.source ? a.source[m] : m;
      Row<Blocks> here = Row<Blocks>::load_from(here_at, c.tail);
      const Row<Blocks> v_row = Row<Blocks>::load_from(v + source * a.v_stride, c.tail);
      add_gains(a, m, v_row, here, table, c, gains);
      here.subtract_scaled(rate_lanes, v_row);
      here.store_to(here_at, c.tail);
    }
  }
};

void online_sgd(const Readings& a, float rate) { for_columns(a.n_outputs, OnlineBody{a, rate}); }

// ---- updates of rows --------------------------------------------------------------------------------------------

// Where a row's chances begin: 32 bits mixed from the table's seed and the row (the multipliers are those of Chris
// Wellons' "lowbias32").
inline int32_t mixed(uint32_t seed, int32_t row) {
  uint32_t h = seed ^ static_cast<uint32_t>(row) * 0x85EBCA77u;
  h = (h ^ h >> 16) * 0x7FEB352Du;
  h = (h ^ h >> 15) * 0x846CA68Bu;
  return static_cast<int32_t>(h ^ h >> 16);
}

struct ColumnSteps {
  int32_t step[kLanes];
  constexpr ColumnSteps() : step() {
    for (int l = 0; l < kLanes; ++l) step[l] = static_cast<int32_t>(static_cast<uint32_t>(l) * 0x9E3779B9u);
  }
};
constexpr ColumnSteps kColumnSteps;

template <int Blocks> inline void store_row(float* p, const Row<Blocks>& a, Columns c, uint32_t, int32_t) {
  a.store_to(p, c.tail);
}
// Rounds to the upper 16 bits: the lower 16 carry with a chance of as many 65536ths as they count. Column k draws
// (x ^ x >> 15) >> 16 of x = (y ^ y >> 16) * 0x7FEB352D, y = mixed + k * 0x9E3779B9.
template <int Blocks>
inline void store_row(Bfloat16* p, const Row<Blocks>& a, Columns c, uint32_t seed, int32_t row) {
  const auto start = static_cast<uint32_t>(mixed(seed, row));
  for (int b = 0; b < Blocks; ++b) {
    const uint32_t first = static_cast<uint32_t>(c.begin + b * kLanes) * 0x9E3779B9u + start;
    const I32 y = load_i32(kColumnSteps.step) + set1(static_cast<int32_t>(first));
    const I32 x = (y ^ shift_right<16>(y)) * set1(int32_t{0x7FEB352D});
    const I32 rounded = as_i32(a.block[b]) + shift_right<16>(x ^ shift_right<15>(x));
    if (b < Blocks - 1) {
      store_upper(p + b * kLanes, rounded);
    } else {
      store_upper_partial(p + b * kLanes, rounded, c.tail);
    }
  }
}

template <class Number> struct SubtractBody {
  const TableRows& a;
  const RowGroups& groups;
  const float* merged;
  float rate;
  float visit_cap;

  template <int Blocks> void run(Columns c) const {
    const int64_t stride = merged_stride(a.n_outputs);
    Number* table = static_cast<Number*>(a.table) + c.begin;
    for (int64_t q = 0; q < groups.n_groups; ++q) {
      if (q + kReadingAhead < groups.n_groups) {
        prefetch_row<Blocks>(table + int64_t{groups.rows[q + kReadingAhead]} * a.row_stride);
      }
      Number* row = table + int64_t{groups.rows[q]} * a.row_stride;
      Row<Blocks> here = Row<Blocks>::load_from(row, c.tail);
      const float n_visits = static_cast<float>(groups.begin[q + 1] - groups.begin[q]);
      const float row_rate = n_visits > visit_cap ? rate * (visit_cap / n_visits) : rate;
      here.subtract_scaled(set1(row_rate), Row<Blocks>::load_from(merged + q * stride + c.begin, c.tail));
      store_row(row, here, c, a.seed, groups.rows[q]);
    }
  }
};

void update_sgd(const TableRows& a, const RowGroups& groups, const float* merged, float rate, float visit_cap) {
  for_type(a.type, [&]<class Number>() {
    for_columns(a.n_outputs, SubtractBody<Number>{a, groups, merged, rate, visit_cap});
  });
}

struct SquareBody {
  const float* merged;
  float* sum;

  template <int Blocks> void run(Columns c) const {
    const Row<Blocks> g = Row<Blocks>::load_from(merged + c.begin, c.tail);
    F32 squares = g.block[0] * g.block[0];
    for (int b = 1; b < Blocks; ++b) squares = squares + g.block[b] * g.block[b];
    *sum += reduce_add(squares);
  }
};

void update_adagrad(const TableRows& a, const RowGroups& groups, const float* merged, float* state, float rate,
                    float epsilon) {
  for (int64_t q = 0; q < groups.n_groups; ++q) {
    const float* g = merged + q * merged_stride(a.n_outputs);
    float squares = 0.0f;
    for_columns(a.n_outputs, SquareBody{g, &squares});
    float& row_state = state[groups.rows[q]];
    row_state += squares / static_cast<float>(a.n_outputs);
    const float row_rate = rate / (__builtin_sqrtf(row_state) + epsilon);
    const int32_t begin[] = {groups.begin[q], groups.begin[q + 1]};
    const RowGroups one{groups.order, begin, groups.rows + q, 1};
    for_type(a.type, [&]<class Number>() {
      for_columns(a.n_outputs, SubtractBody<Number>{a, one, g, row_rate, __builtin_inff()});
    });
  }
}

struct MomentBody {
  const float* merged;
  float* moment;
  float beta, rest;

  template <int Blocks> void run(Columns c) const {
    const Row<Blocks> g = Row<Blocks>::load_from(merged + c.begin, c.tail);
    Row<Blocks> m = Row<Blocks>::load_from(moment + c.begin, c.tail);
    for (int b = 0; b < Blocks; ++b) m.block[b] = set1(beta) * m.block[b] + set1(rest) * g.block[b];
    m.store_to(moment + c.begin, c.tail);
  }
};

void update_adam(const TableRows& a, const RowGroups& groups, const float* merged, float* state, const AdamStep& step) {
  const int64_t n_state = a.n_outputs + kAdamNumbers;
  for (int64_t q = 0; q < groups.n_groups; ++q) {
    if (q + kReadingAhead < groups.n_groups) {
      const float* ahead = state + int64_t{groups.rows[q + kReadingAhead]} * n_state;
      for (int64_t k = 0; k < n_state; k += kLanes) __builtin_prefetch(ahead + k);
    }
    const float* g = merged + q * merged_stride(a.n_outputs);
    float* moment = state + int64_t{groups.rows[q]} * n_state;
    float* const numbers = moment + a.n_outputs;
    float squares = 0.0f;
    for_columns(a.n_outputs, SquareBody{g, &squares});
    for_columns(a.n_outputs, MomentBody{g, moment, step.beta1, step.rest1});
    numbers[0] = step.beta2 * numbers[0] + step.rest2 * (squares / static_cast<float>(a.n_outputs));
    numbers[1] = step.beta1 * numbers[1] + step.rest1;
    numbers[2] = step.beta2 * numbers[2] + step.rest2;
    const float row_rate = step.rate / (numbers[1] * (__builtin_sqrtf(numbers[0] / numbers[2]) + step.epsilon));
    const int32_t begin[] = {groups.begin[q], groups.begin[q + 1]};
    const RowGroups one{groups.order, begin, groups.rows + q, 1};
    for_type(a.type, [&]<class Number>() {
      for_columns(a.n_outputs, SubtractBody<Number>{a, one, moment, row_rate, __builtin_inff()});
    });
  }
}

// ---- pointwise --------------------------------------------------------------------------------------------------

inline F32 slope_of(F32 u, F32 gain) {
  const F32 one = set1(1.0f);
  const F32 distance = one + abs(u);
  const F32 half = select(u > set1(0.0f), set1(-0.5f), set1(0.5f));
  return half / (distance * distance) * gain;
}

void surrogate_slope(const float* u, const float* gain, float* slope, int64_t count) {
  int64_t m = 0;
  for (; m + kLanes <= count; m += kLanes) store(slope + m, slope_of(load(u + m), load(gain + m)));
  if (m < count) {
    const int tail = static_cast<int>(count - m);
    store_partial(slope + m, slope_of(load_partial(u + m, tail), load_partial(gain + m, tail)), tail);
  }
}

// exp(x) for x <= 0 within 2 units in the last place; 0 below -87, where float32 runs out; NaN stays NaN.
inline F32 exp_nonpositive(F32 x) {
  const F32 lowest = set1(-87.0f);
  const Mask underflow = lowest > x;
  const F32 bounded = select(underflow, lowest, x);
  const F32 shifter = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer and leaves that in the low bits
  const F32 shifted = bounded * set1(1.44269504f) + shifter;
  const F32 n = shifted - shifter;
  // ln 2 in two parts, the first exact in a product with a small integer.
  const F32 r = bounded - n * set1(0.693359375f) - n * set1(-2.12194440e-4f);
  F32 e = set1(1.0f / 720.0f);
  e = e * r + set1(1.0f / 120.0f);
  e = e * r + set1(1.0f / 24.0f);
  e = e * r + set1(1.0f / 6.0f);
  e = e * r + set1(0.5f);
  e = e * r + set1(1.0f);
  e = e * r + set1(1.0f);
  const F32 power = as_f32(shift_left<23>(as_i32(shifted) + set1(int32_t{127})));
  return select(underflow, set1(0.0f), e * power);
}

// The whole blocks of a row of logits begin at `row`; the lanes of the last one, padded with -infinity, at `last`.
struct Logits {
  const float* row;
  int64_t whole;
  float last[kLanes];

  Logits(const float* logits, int64_t n_outputs) : row(logits), whole(n_outputs / kLanes * kLanes) {
    const int64_t tail = n_outputs - whole;
    for (int64_t l = 0; l < kLanes; ++l) last[l] = l < tail ? logits[whole + l] : -__builtin_inff();
  }
  float highest() const {
    F32 largest = load(last);
    for (int64_t k = 0; k < whole; k += kLanes) largest = max(largest, load(row + k));
    return reduce_max(largest);
  }
};

void softmax_cross_entropy(float* logits, int64_t stride, const int64_t* target, float* nats, int64_t n_positions,
                           int64_t n_outputs) {
  for (int64_t p = 0; p < n_positions; ++p) {
    float* row = logits + p * stride;
    const Logits given(row, n_outputs);
    const float highest = given.highest(), at_target = row[target[p]];
    const F32 highest_lanes = set1(highest);

    const F32 last_exp = exp_nonpositive(load(given.last) - highest_lanes);
    F32 sum = last_exp;
    for (int64_t k = 0; k < given.whole; k += kLanes) {
      const F32 e = exp_nonpositive(load(row + k) - highest_lanes);
      store(row + k, e);
      sum = sum + e;
    }
    const float total = reduce_add(sum);
    const F32 inverse = set1(1.0f / total);
    for (int64_t k = 0; k < given.whole; k += kLanes) store(row + k, load(row + k) * inverse);
    const int tail = static_cast<int>(n_outputs - given.whole);
    if (tail > 0) store_partial(row + given.whole, last_exp * inverse, tail);
    row[target[p]] -= 1.0f;
    nats[p] = __builtin_logf(total) + (highest - at_target);
  }
}

void cross_entropy(const float* logits, int64_t stride, const int64_t* target, float* nats, int64_t n_positions,
                   int64_t n_outputs) {
  for (int64_t p = 0; p < n_positions; ++p) {
    const float* row = logits + p * stride;
    const Logits given(row, n_outputs);
    const float highest = given.highest();
    const F32 highest_lanes = set1(highest);
    F32 sum = exp_nonpositive(load(given.last) - highest_lanes);
    for (int64_t k = 0; k < given.whole; k += kLanes) sum = sum + exp_nonpositive(load(row + k) - highest_lanes);
    nats[p] = __builtin_logf(reduce_add(sum)) + (highest - row[target[p]]);
  }
}

}  // namespace

const Kernels kernels = {
    POLYCHRON_SET_NAME, hash_tile,  gather_sum, sum_pairs,  pair_gains,     add_to_rows,     list_pairs,
    route_pairs,        merge_rows, online_sgd, update_sgd, update_adagrad, update_adam,     surrogate_slope,
    softmax_cross_entropy, cross_entropy,
};
