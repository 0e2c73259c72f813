// Attention over a prefix forest on CPU: each token attends along its own path, and a run that
// continues another copies at most one chunk of its keys and values.
//
// Keys and values are packed once a layer into chunks at absolute positions. A chunk that lies
// wholly before a run's first token is its parent's; only the one that straddles the border is packed
// anew. A row's arithmetic depends on its absolute position and the tokens before it alone: masked
// keys weigh exactly 0 and come last, products accumulate in one order. So a score has the same bits
// alone, in any batch, shared or not. Runs that an earlier batch computed have their keys and values
// in slots of their own, and no rows. Queries may be those of a few rows; keys and values are all.
//
// Roundings and orders are those of transformers' eager attention on the same machine: scores in the
// model's dtype, softmax in float32 as torch's, weights in the model's dtype.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/native/CPUBlas.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <vector>

namespace {

constexpr int64_t KEYS = 128;    // positions whose keys are packed together
constexpr int64_t VALUES = 512;  // the same of values: oneDNN's products sum as many at a time
constexpr int64_t TILE = 64;     // query rows of a product
constexpr int64_t STEP = 32;     // keys of a product are a multiple of this

using Vec = at::vec::Vectorized<float>;
using at::native::cpublas::brgemm;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

struct Run {
  int64_t start;     // its first row in the packed row of tokens; if held, its first among the slots
  int64_t length;
  int64_t position;  // absolute position of its first token
  int64_t parent;    // -1 for a root
  bool is_held;

  int64_t end() const { return position + length; }
};

struct Tile {
  int64_t run;
  int64_t first;  // first position of the tile
  int64_t last;   // one past its last position
  int64_t query;  // where among the queries that of its first position is
};

struct Chunk {
  int64_t run;
  int64_t first;  // absolute position
  int64_t last;   // one past the last position it holds
};

using Runs = std::vector<Run>;

// Which positions are packed together: each run packs the chunks that hold its own tokens.
struct Chunks {
  Chunks(const Runs& runs, int64_t size) : runs(runs), size(size) {
    for (int64_t i = 0; i < static_cast<int64_t>(runs.size()); ++i) {
      base.push_back(static_cast<int64_t>(all.size()));
      for (int64_t first = runs[i].position / size * size; first < runs[i].end(); first += size)
        all.push_back({i, first, std::min(first + size, runs[i].end())});
    }
  }

  // The place among all chunks of the one at an absolute position of a run's path.
  int64_t find(int64_t run, int64_t position) const {
    while (position / size < runs[run].position / size) run = runs[run].parent;
    return base[run] + position / size - runs[run].position / size;
  }

  const Runs& runs;
  const int64_t size;
  std::vector<int64_t> base;
  std::vector<Chunk> all;
};

Runs lay_out(const at::Tensor& lengths, const at::Tensor& parents, int64_t held) {
  Runs runs;
  const auto* length = lengths.const_data_ptr<int32_t>();
  const auto* parent = parents.const_data_ptr<int32_t>();
  int64_t start = 0;
  for (int64_t i = 0; i < lengths.numel(); ++i) {
    if (i == held) start = 0;
    TORCH_CHECK(parent[i] < i && length[i] > 0, "runs come after their parents and aren't empty");
    const int64_t position = parent[i] < 0 ? 0 : runs[parent[i]].end();
    runs.push_back({start, length[i], position, parent[i], i < held});
    start += length[i];
  }
  return runs;
}

std::vector<Tile> cut(const Runs& runs, int64_t positions) {
  std::vector<Tile> tiles;
  for (int64_t i = 0; i < static_cast<int64_t>(runs.size()); ++i)
    for (int64_t first = runs[i].position; first < runs[i].end() && !runs[i].is_held; first += positions)
      tiles.push_back({i, first, std::min(runs[i].end(), first + positions),
                       runs[i].start + first - runs[i].position});
  return tiles;
}

// Of these rows alone; those that follow one another within a run share a tile.
std::vector<Tile> cut(const Runs& runs, int64_t held, const at::Tensor& rows, int64_t positions) {
  std::vector<Tile> tiles;
  const auto* row = rows.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < rows.numel(); ++i) {
    const auto after = std::upper_bound(runs.begin() + held, runs.end(), row[i],
                                        [](int64_t at, const Run& run) { return at < run.start; });
    TORCH_CHECK(after != runs.begin() + held, "a row is of no run");
    const auto run = after - 1;
    const int64_t position = run->position + row[i] - run->start;
    TORCH_CHECK(position < run->end(), "a row is of no run");
    const int64_t number = run - runs.begin();
    if (!tiles.empty() && tiles.back().run == number && tiles.back().last == position &&
        position - tiles.back().first < positions)
      ++tiles.back().last;
    else
      tiles.push_back({number, position, position + 1, i});
  }
  return tiles;
}

// Matrix B of a product is packed in pairs of its rows where elements have two bytes.
template <typename T>
constexpr int64_t PAIR = sizeof(T) == 2 ? 2 : 1;

// A chunk's tokens, and where the keys or values of each lie.
template <typename T>
struct Tokens {
  const T* at[std::max(KEYS, VALUES)];
  int64_t count;  // a multiple of STEP
};

// keys^T, (width, KEYS): width in pairs. A pair of bfloat16, like a float, moves as one word.
template <typename T>
void pack_keys(const Tokens<T>& tokens, int64_t width, T* packed, std::vector<T>& gathered) {
  const int64_t words = width / PAIR<T>;
  gathered.resize(STEP * width);
  for (int64_t first = 0; first < tokens.count; first += STEP) {
    for (int64_t i = 0; i < STEP; ++i)
      std::copy_n(tokens.at[first + i], width, gathered.data() + i * width);
    at::vec::transpose_mxn<float>(reinterpret_cast<const float*>(gathered.data()), words,
                                  reinterpret_cast<float*>(packed) + first, KEYS, STEP, words);
  }
}

// values, (VALUES, width): keys in pairs.
template <typename T>
void pack_values(const Tokens<T>& tokens, int64_t width, T* packed) {
  for (int64_t i = 0; i < tokens.count; i += PAIR<T>, packed += PAIR<T> * width) {
    if constexpr (PAIR<T> == 1) {
      std::copy_n(tokens.at[i], width, packed);
    } else {
      const auto* even = reinterpret_cast<const uint16_t*>(tokens.at[i]);
      const auto* odd = reinterpret_cast<const uint16_t*>(tokens.at[i + 1]);
      auto* __restrict pairs = reinterpret_cast<uint32_t*>(packed);
      for (int64_t d = 0; d < width; ++d) pairs[d] = even[d] | static_cast<uint32_t>(odd[d]) << 16;
    }
  }
}

struct Options {
  float scale;
  int64_t window;  // keys a row sees at most, itself included; 0 for all
  float softcap;   // 0 for none
  bool causal;
  bool scale_is_exact;  // a power of two: scaling rounds nothing
};

// To the nearest bfloat16, ties to even: a number with the lower half of its bits clear.
template <typename T>
Vec rounded(const Vec& value) {
  if constexpr (sizeof(T) == 2) {
    using Bits = at::vec::Vectorized<int32_t>;
    const Bits bits = at::vec::cast<int32_t>(value);
    const Bits odd = (bits >> Bits(16)) & Bits(1);
    return at::vec::cast<float>((bits + Bits(0x7fff) + odd) & Bits(~0xffff));
  } else {
    return value;
  }
}

// exp of a number that isn't positive: Sleef's expf with 1 ULP, which torch's softmax calls, bit by bit,
// but inlined.
Vec exponential(const Vec& value) {
  const Vec q = (value * Vec(1.442695040888963407359924681001892137426645954152985934135449406931f)).round();
  Vec s = at::vec::fmadd(q, Vec(-0.693145751953125f), value);
  s = at::vec::fmadd(q, Vec(-1.428606765330187045e-06f), s);
  Vec u(0.000198527617612853646278381f);
  u = at::vec::fmadd(u, s, Vec(0.00139304355252534151077271f));
  u = at::vec::fmadd(u, s, Vec(0.00833336077630519866943359f));
  u = at::vec::fmadd(u, s, Vec(0.0416664853692054748535156f));
  u = at::vec::fmadd(u, s, Vec(0.166666671633720397949219f));
  u = at::vec::fmadd(u, s, Vec(0.5f));
  u = Vec(1.f) + at::vec::fmadd(s * s, u, s);
#if defined(CPU_CAPABILITY_AVX512)
  u = _mm512_scalef_ps(u, q);
#else
  // Times 2^q in two steps, so that neither factor leaves the range of floats.
  using Bits = at::vec::Vectorized<int32_t>;
  const Bits whole = at::vec::convert_to_int_of_same_size(q);
  const Bits half = whole >> Bits(1);
  const auto power = [](const Bits& n) { return at::vec::cast<float>((n + Bits(127)) << Bits(23)); };
  u = u * power(half) * power(whole - half);
#endif
  return Vec::blendv(u, Vec(0.f), value < Vec(-104.f));
}

// One row: products in, weights out. Keys outside [low, high) weigh exactly 0, up to `width`.
template <typename T>
void soften(float* scores, T* weights, int64_t low, int64_t high, int64_t width,
            const Options& options) {
  constexpr int64_t lanes = Vec::size();
  const Vec infinity(-std::numeric_limits<float>::infinity());
  const Vec scale(options.scale);
  const int64_t begin = low / STEP * STEP;
  const int64_t end = round_up(high, STEP);
  Vec most = infinity;
  for (int64_t k = begin; k < end; k += lanes) {
    Vec score = rounded<T>(Vec::loadu(scores + k)) * scale;
    if (!options.scale_is_exact) score = rounded<T>(score);
    if (options.softcap != 0) {
      score = rounded<T>(score / Vec(options.softcap));
      score = rounded<T>(rounded<T>(score.tanh()) * Vec(options.softcap));
    }
    if (k < low || k + lanes > high) {
      const Vec at = Vec::arange(static_cast<float>(k), 1.f);
      const Vec seen = (at >= Vec(static_cast<float>(low))) & (at < Vec(static_cast<float>(high)));
      score = Vec::blendv(infinity, score, seen);
    }
    score.store(scores + k);
    most = at::vec::maximum(most, score);
  }
  const Vec top(at::vec::vec_reduce_all<float>(
      [](Vec& a, Vec& b) { return at::vec::maximum(a, b); }, most));
  Vec sum(0.f);
  for (int64_t k = begin; k < end; k += lanes) {
    const Vec weight = exponential(Vec::loadu(scores + k) - top);
    weight.store(scores + k);
    sum = sum + weight;
  }
  // The reciprocal, as torch's softmax has it.
  const Vec share(
      1.f / at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, sum));
  std::fill(weights, weights + begin, T(0));
  if constexpr (sizeof(T) == 2) {
    for (int64_t k = begin; k < end; k += 2 * lanes)
      at::vec::convert_from_float<T>(Vec::loadu(scores + k) * share,
                                     Vec::loadu(scores + k + lanes) * share).store(weights + k);
  } else {
    for (int64_t k = begin; k < end; k += lanes) (Vec::loadu(scores + k) * share).store(weights + k);
  }
  std::fill(weights + end, weights + width, T(0));
}

template <typename T>
struct Scratch {
  std::vector<T> queries, weights, gathered;
  std::vector<float> scores, mixed;
  Tokens<T> tokens;
};

// Memory that stays from layer to layer: glibc would give a large aligned block back to the kernel, and
// every page of the next would be a fault.
template <typename T>
struct Workspace {
  T* of(size_t count) {
    if (count > size) {
      memory.reset();
      memory.reset(static_cast<T*>(::operator new(count * sizeof(T), LINE)));
      size = count;
    }
    return memory.get();
  }

  struct Release {
    void operator()(T* block) const { ::operator delete(block, LINE); }
  };
  static constexpr std::align_val_t LINE{64};
  std::unique_ptr<T, Release> memory;
  size_t size = 0;
};

// A token's keys or values lie side by side: those computed in this batch by row, held ones by slot.
template <typename T>
struct Source {
  Source(const at::Tensor& rows, const std::optional<at::Tensor>& kept, const int32_t* slots)
      : rows(rows.const_data_ptr<T>()), per_head(rows.stride(0)), per_row(rows.stride(1)),
        slots(slots) {
    if (!kept) return;
    held = kept->const_data_ptr<T>();
    per_slot = kept->stride(0);
    per_held_head = kept->stride(1);
  }

  const T* at(const Run& run, int64_t position, int64_t head) const {
    const int64_t place = run.start + position - run.position;
    return run.is_held ? held + slots[place] * per_slot + head * per_held_head
                       : rows + place * per_row + head * per_head;
  }

  const T* rows;
  int64_t per_head, per_row;
  const int32_t* slots;
  const T* held = nullptr;
  int64_t per_slot = 0, per_held_head = 0;
};

template <typename T>
struct Attention {
  const at::Tensor &query, &key, &value;
  const Source<T> key_source, value_source;
  at::Tensor& out;
  const Runs& runs;
  const std::vector<Tile>& tiles;
  const Options options;
  const int64_t heads = query.size(0), kv_heads = key.size(0);
  const int64_t group = heads / kv_heads;
  const int64_t key_width = query.size(2), value_width = value.size(2);
  const Chunks key_chunks{runs, KEYS}, value_chunks{runs, VALUES};
  T *keys = nullptr, *values = nullptr;

  void run() {
    thread_local Workspace<T> packed_keys_of_a_layer, packed_values_of_a_layer;
    keys = packed_keys_of_a_layer.of(key_chunks.all.size() * kv_heads * KEYS * key_width);
    values = packed_values_of_a_layer.of(value_chunks.all.size() * kv_heads * VALUES * value_width);
    spread(key_chunks.all.size() * kv_heads,
           [&](int64_t job, Scratch<T>& scratch) {
             const int64_t chunk = job / kv_heads, head = job % kv_heads;
             find_tokens(key_chunks.all[chunk], key_source, head, scratch.tokens);
             pack_keys(scratch.tokens, key_width, packed_keys(chunk, head), scratch.gathered);
           });
    spread(value_chunks.all.size() * kv_heads,
           [&](int64_t job, Scratch<T>& scratch) {
             const int64_t chunk = job / kv_heads, head = job % kv_heads;
             find_tokens(value_chunks.all[chunk], value_source, head, scratch.tokens);
             pack_values(scratch.tokens, value_width, packed_values(chunk, head));
           });
    spread(tiles.size() * kv_heads, [&](int64_t job, Scratch<T>& scratch) {
      attend(tiles[job / kv_heads], job % kv_heads, scratch);
    });
  }

  // Jobs differ in size: threads take the next one as they come free.
  template <typename Job>
  void spread(int64_t jobs, const Job& job) {
    std::atomic<int64_t> next{0};
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), jobs), 1, [&](int64_t, int64_t) {
      Scratch<T> scratch;
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < jobs;) job(i, scratch);
      if constexpr (sizeof(T) == 2) at::native::cpublas::brgemm_release();
    });
  }

  T* packed_keys(int64_t chunk, int64_t head) {
    return keys + (chunk * kv_heads + head) * KEYS * key_width;
  }

  T* packed_values(int64_t chunk, int64_t head) {
    return values + (chunk * kv_heads + head) * VALUES * value_width;
  }

  // What fills the chunk up to a multiple of STEP repeats a token: it is masked, and must be finite.
  void find_tokens(const Chunk& chunk, const Source<T>& source, int64_t head, Tokens<T>& tokens) {
    for (int64_t last = chunk.last, run = chunk.run; last > chunk.first; run = runs[run].parent) {
      const int64_t first = std::max(chunk.first, runs[run].position);
      for (int64_t position = first; position < last; ++position)
        tokens.at[position - chunk.first] = source.at(runs[run], position, head);
      last = first;
    }
    const int64_t last = chunk.last - chunk.first;
    tokens.count = round_up(last, STEP);
    std::fill(tokens.at + last, tokens.at + tokens.count, tokens.at[last - 1]);
  }

  void attend(const Tile& tile, int64_t head, Scratch<T>& scratch) {
    const Run& run = runs[tile.run];
    const int64_t positions = tile.last - tile.first;
    const int64_t rows = round_up(positions * group, 16);
    const int64_t end = options.causal ? tile.last : run.end();
    // Chunks before the first row's window are skipped; where sums begin depends on positions alone.
    const int64_t seen_from =
        options.window ? std::max<int64_t>(0, tile.first - options.window + 1) : 0;
    const int64_t base = seen_from / VALUES * VALUES;
    const int64_t width = round_up(end - base, STEP);
    load_queries(tile, head, rows, scratch);
    scratch.scores.resize(rows * width);
    scratch.weights.resize(rows * width);
    scratch.mixed.resize(rows * value_width);
    for (int64_t first = seen_from / KEYS * KEYS; first < base + width; first += KEYS) {
      const int64_t n = std::min(KEYS, base + width - first);
      brgemm(rows, n, key_width, key_width, KEYS, width, false, scratch.queries.data(),
             packed_keys(key_chunks.find(tile.run, first), head),
             scratch.scores.data() + first - base, sizeof(T) == 2);
    }
    for (int64_t i = 0; i < positions * group; ++i) {
      const int64_t position = tile.first + i / group;
      const int64_t low = options.window ? std::max(base, position - options.window + 1) : base;
      int64_t high = options.causal ? position + 1 : end;
      if (options.window && !options.causal) high = std::min(high, position + options.window);
      soften<T>(scratch.scores.data() + i * width, scratch.weights.data() + i * width, low - base,
                high - base, width, options);
    }
    for (int64_t first = base; first < base + width; first += VALUES) {
      const int64_t k = std::min(VALUES, base + width - first);
      brgemm(rows, value_width, k, width, value_width, value_width, first > base,
             scratch.weights.data() + first - base,
             packed_values(value_chunks.find(tile.run, first), head), scratch.mixed.data(),
             sizeof(T) == 2);
    }
    store(tile, head, scratch);
  }

  // Rows are (position, query head of this key head); those that fill up the tile are zero.
  void load_queries(const Tile& tile, int64_t head, int64_t rows, Scratch<T>& scratch) {
    scratch.queries.assign(rows * key_width, T(0));
    T* target = scratch.queries.data();
    for (int64_t i = 0; i < tile.last - tile.first; ++i) {
      const T* source = query.const_data_ptr<T>() + (tile.query + i) * query.stride(1);
      for (int64_t g = 0; g < group; ++g, target += key_width)
        std::copy_n(source + (head * group + g) * query.stride(0), key_width, target);
    }
  }

  void store(const Tile& tile, int64_t head, const Scratch<T>& scratch) {
    const float* source = scratch.mixed.data();
    for (int64_t i = 0; i < tile.last - tile.first; ++i) {
      T* target =
          out.mutable_data_ptr<T>() + ((tile.query + i) * heads + head * group) * value_width;
      for (int64_t n = 0; n < group * value_width; ++n) target[n] = static_cast<T>(*source++);
    }
  }
};

// query (heads, rows, width), key and value (kv_heads, rows, width), kept ones (slots, kv_heads,
// width), lengths and parents (runs,) int32 -> (rows, heads, width). The first `held` runs' tokens
// are in `slots` (held tokens,) int32 of the kept ones. With `read` (queries,) int32 the first
// queries are those of these rows. Rows that are no run's are zero.
at::Tensor forest_attention(const at::Tensor& query, const at::Tensor& key,
                            const at::Tensor& value, const std::optional<at::Tensor>& kept_keys,
                            const std::optional<at::Tensor>& kept_values, const at::Tensor& slots,
                            const at::Tensor& lengths, const at::Tensor& parents,
                            const std::optional<at::Tensor>& read, int64_t held, double scale,
                            int64_t window, double softcap, bool causal) {
  TORCH_CHECK(query.stride(2) == 1 && key.stride(2) == 1 && value.stride(2) == 1,
              "a token's numbers lie side by side");
  TORCH_CHECK(query.size(2) % 2 == 0 && query.size(0) % key.size(0) == 0);
  at::Tensor out = at::empty({query.size(1), query.size(0), value.size(2)}, query.options());
  TORCH_CHECK(held == 0 || (kept_keys && kept_values), "held runs lie in kept keys and values");
  const Runs runs = lay_out(lengths, parents, held);
  const int64_t positions = std::max<int64_t>(1, TILE / (query.size(0) / key.size(0)));
  const auto tiles = read ? cut(runs, held, *read, positions) : cut(runs, positions);
  const int64_t computed = tiles.empty() ? 0 : tiles.back().query + tiles.back().last - tiles.back().first;
  TORCH_CHECK(computed <= out.size(0), "there are fewer queries than rows to read");
  out.narrow(0, computed, out.size(0) - computed).zero_();
  const int32_t* slot = slots.const_data_ptr<int32_t>();
  const Options options{static_cast<float>(scale), window, static_cast<float>(softcap), causal,
                        std::exp2(std::round(std::log2(scale))) == scale};
  const auto run = [&]<typename T>(T) {
    const Source<T> keys(key, kept_keys, slot), values(value, kept_values, slot);
    Attention<T>{query, key, value, keys, values, out, runs, tiles, options}.run();
  };
  if (query.scalar_type() == at::kBFloat16)
    run(at::BFloat16());
  else
    run(0.f);
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(assay, library) {
  library.def(
      "forest_attention(Tensor query, Tensor key, Tensor value, Tensor? kept_keys, "
      "Tensor? kept_values, Tensor slots, Tensor lengths, Tensor parents, Tensor? read, int held, "
      "float scale, int window, float softcap, bool causal) -> Tensor");
  library.impl("forest_attention", c10::DispatchKey::CPU, &forest_attention);
}
