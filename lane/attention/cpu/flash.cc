#include "lane/attention/cpu/flash.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "lane/attention/cpu/backends.h"
#include "lane/attention/cpu/batch.h"
#include "lane/kernels/kernels.h"

// The order of arithmetic is fixed by positions alone. The positions before a query fall into ranges of kRangeKeys and
// these into tiles of kTileKeys, both counted from position 0. In a range the softmax runs over the tiles in order;
// then the ranges are merged in order. Which thread computes a range, and together with which other queries, changes
// nothing.
namespace lane {
namespace flash {
namespace {

constexpr int64_t kRangeKeys = 512;  // a long past with few heads is spread over threads in these pieces
constexpr int64_t kTileRows = 64;    // queries that share a pass over the keys; a tile is packed once for all of them
constexpr int64_t kMaxPartialBytes = int64_t{32} << 20;
static_assert(kRangeKeys % kTileKeys == 0);

// Queries of consecutive tokens and all heads of one kv head.
struct QueryTile {
  SequenceView sequence;
  int64_t token, num_tokens;  // first of them, among the sequence's new tokens
  int kv_head;
  int64_t first_range, last_range;  // of the positions they see: [first, last)
  int64_t partial = 0;              // index of the first range's partial result, if ranges are spread over threads

  int64_t position() const { return sequence.first_position + token; }
};

// The running softmax of some rows.
struct State {
  float *highest, *sum, *out;  // [rows], [rows], [rows, stride]
};

// Grows and is reused: one per thread.
struct Workspace {
  std::vector<float> floats;
  std::vector<int32_t> ints;
  std::vector<char> zeros;
};
thread_local Workspace workspace;

struct Call {
  const Loops* loops;
  const AttentionShape& shape;
  TensorView qkv, out;
  int window;
  KvView cache;
  int64_t group, stride;  // query heads of a kv head; head_dim padded

  int64_t state_floats(int64_t rows) const { return rows * (stride + 2); }
  State state_at(float* memory, int64_t rows) const { return {memory, memory + rows, memory + 2 * rows}; }
};

void clear(State state, int64_t rows, int64_t stride) {
  std::fill_n(state.highest, rows, -INFINITY);
  std::fill_n(state.sum, rows, 0.f);
  std::fill_n(state.out, rows * stride, 0.f);
}

// total += part, of which each is relative to its own highest score. A sum of 0 is nothing yet.
void merge(State total, State part, int64_t rows, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    if (part.sum[r] == 0) continue;
    const float highest = part.highest[r] > total.highest[r] ? part.highest[r] : total.highest[r];
    const float old_weight = total.sum[r] == 0 ? 0 : std::exp2(total.highest[r] - highest);
    const float new_weight = std::exp2(part.highest[r] - highest);
    total.highest[r] = highest;
    total.sum[r] = total.sum[r] * old_weight + part.sum[r] * new_weight;
    float* to = total.out + r * stride;
    const float* from = part.out + r * stride;
    for (int64_t i = 0; i < stride; ++i) to[i] = to[i] * old_weight + from[i] * new_weight;
  }
}

void finish(const Call& call, const QueryTile& tile, State state) {
  const int64_t dim = call.shape.head_dim;
  for (int64_t r = 0; r < tile.num_tokens * call.group; ++r) {
    float* to = call.out.as<float>() + (tile.sequence.first_token + tile.token + r / call.group) * call.out.cols() +
                (tile.kv_head * call.group + r % call.group) * dim;
    const float* from = state.out + r * call.stride;
    for (int64_t i = 0; i < dim; ++i) to[i] = from[i] / state.sum[r];
  }
}

// Scaled so that scores come in units of log 2, see Tile.
void load_queries(const Call& call, const QueryTile& tile, float* queries) {
  const int64_t dim = call.shape.head_dim;
  const float scale = call.shape.soft_cap > 0 ? call.shape.scale / call.shape.soft_cap
                                              : call.shape.scale * std::numbers::log2e_v<float>;
  for (int64_t token = 0; token < tile.num_tokens; ++token) {
    const float* from = call.qkv.as<const float>() +
                        (tile.sequence.first_token + tile.token + token) * call.qkv.cols() +
                        tile.kv_head * call.group * dim;
    for (int64_t i = 0; i < call.group * dim; ++i) *queries++ = from[i] * scale;
  }
}

// Where the keys at [low, high) lie; zeros elsewhere in the tile, so that nothing nobody wrote is ever read.
void find_rows(const HeadPages& pages, const int32_t* blocks, int64_t tile_position, int64_t low, int64_t high,
               const void* zeros, const void** rows) {
  std::fill_n(rows, low - tile_position, zeros);
  for (int64_t position = low; position < high;) {
    const char* row = pages.row(blocks, position);
    const int64_t page_end = std::min(high, (position / pages.block_tokens + 1) * pages.block_tokens);
    for (; position < page_end; ++position, row += pages.row_bytes) rows[position - tile_position] = row;
  }
  std::fill(rows + (high - tile_position), rows + kTileKeys, zeros);
}

struct Scratch {
  Tile tile;
  int32_t *first, *last;
  State part, total;
};

// Carves the thread's workspace up.
Scratch scratch_for(const Call& call, int64_t rows) {
  const int64_t dim = call.shape.head_dim;
  const int64_t sizes[] = {rows * dim, kBlockDims * kTileKeys, kTileKeys * call.stride, rows * kTileKeys};
  int64_t floats = 2 * call.state_floats(rows) + kPad;
  for (const int64_t size : sizes) floats += (size + kPad - 1) / kPad * kPad;
  workspace.floats.resize(std::max(workspace.floats.size(), static_cast<size_t>(floats)));
  workspace.ints.resize(std::max(workspace.ints.size(), static_cast<size_t>(2 * rows)));
  workspace.zeros.resize(std::max(workspace.zeros.size(), static_cast<size_t>(dim) * sizeof(float)));

  auto* next = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(workspace.floats.data()) + 63) / 64 * 64);
  float* parts[4];
  for (int i = 0; i < 4; ++i) parts[i] = next, next += (sizes[i] + kPad - 1) / kPad * kPad;
  Scratch scratch;
  Tile& tile = scratch.tile;
  tile.num_rows = static_cast<int>(rows);
  tile.head_dim = static_cast<int>(dim);
  tile.stride = static_cast<int>(call.stride);
  tile.soft_cap = call.shape.soft_cap * std::numbers::log2e_v<float>;
  tile.dtype = call.cache.keys.dtype;
  tile.first = scratch.first = workspace.ints.data();
  tile.last = scratch.last = workspace.ints.data() + rows;
  tile.queries = parts[0], tile.keys = parts[1], tile.values = parts[2], tile.scores = parts[3];
  scratch.part = call.state_at(next, rows);
  scratch.total = call.state_at(next + call.state_floats(rows), rows);
  return scratch;
}

// The softmax of a query tile over the positions of one range. `goes_on`: this thread does the next range, too.
void run_range(const Call& call, const QueryTile& queries, int64_t range, bool goes_on, Scratch& scratch, State state) {
  Tile& tile = scratch.tile;
  clear(state, tile.num_rows, call.stride);
  tile.highest = state.highest, tile.sum = state.sum, tile.out = state.out;
  const HeadPages keys = pages_of(call.cache.keys, queries.kv_head),
                  values = pages_of(call.cache.values, queries.kv_head);
  const void *key_rows[2][kTileKeys], *value_rows[2][kTileKeys];  // of this tile and of the next

  const int64_t lowest = first_visible(queries.position(), call.window), end = queries.position() + queries.num_tokens;
  const int64_t range_end = std::min((range + 1) * kRangeKeys, end);
  const auto find = [&](int64_t position, int turn) {
    const int64_t low = std::max(position, lowest), high = std::min(position + kTileKeys, end);
    const int32_t* blocks = queries.sequence.blocks;
    find_rows(keys, blocks, position, low, high, workspace.zeros.data(), key_rows[turn]);
    find_rows(values, blocks, position, low, high, workspace.zeros.data(), value_rows[turn]);
  };
  int64_t at = std::max(range * kRangeKeys, lowest / kTileKeys * kTileKeys);
  find(at, 0);
  for (int turn = 0; at < range_end; at += kTileKeys, turn = 1 - turn) {
    const int next = at + kTileKeys < (goes_on ? end : range_end) ? 1 - turn : turn;
    if (next != turn) find(at + kTileKeys, next);
    tile.key_rows = key_rows[turn], tile.value_rows = value_rows[turn];
    tile.next_key_rows = key_rows[next], tile.next_value_rows = value_rows[next];
    for (int r = 0; r < tile.num_rows; ++r) {
      const int64_t position = queries.position() + r / call.group;
      scratch.first[r] =
          static_cast<int32_t>(std::clamp<int64_t>(first_visible(position, call.window) - at, 0, kTileKeys));
      scratch.last[r] = static_cast<int32_t>(std::clamp<int64_t>(position + 1 - at, 0, kTileKeys));
    }
    call.loops->attend(tile);
  }
}

// Tiles of `num_tokens` queries, those with the longest past first: what starts last should be short.
std::vector<QueryTile> query_tiles(const Call& call, const AttentionBatch& batch, int64_t num_tokens) {
  std::vector<QueryTile> tiles;
  for (int64_t i = 0; i < batch.num_seqs; ++i) {
    const SequenceView sequence = sequence_of(batch, i);
    for (int64_t tile = (sequence.num_tokens + num_tokens - 1) / num_tokens; tile-- > 0;)
      for (int head = 0; head < call.shape.num_kv_heads; ++head) {
        const int64_t token = tile * num_tokens;
        QueryTile queries{sequence, token, std::min(num_tokens, sequence.num_tokens - token), head, 0, 0};
        queries.first_range = first_visible(queries.position(), call.window) / kRangeKeys;
        queries.last_range = (queries.position() + queries.num_tokens - 1) / kRangeKeys + 1;
        tiles.push_back(queries);
      }
  }
  return tiles;
}

// One task a tile: ranges one after the other.
void run_tiles(const Call& call, const std::vector<QueryTile>& tiles, ThreadPool& threads) {
  threads.run(static_cast<int64_t>(tiles.size()), [&](int64_t index) {
    const QueryTile& queries = tiles[static_cast<size_t>(index)];
    Scratch scratch = scratch_for(call, queries.num_tokens * call.group);
    load_queries(call, queries, const_cast<float*>(scratch.tile.queries));
    clear(scratch.total, scratch.tile.num_rows, call.stride);
    for (int64_t range = queries.first_range; range < queries.last_range; ++range) {
      run_range(call, queries, range, true, scratch, scratch.part);
      merge(scratch.total, scratch.part, scratch.tile.num_rows, call.stride);
    }
    finish(call, queries, scratch.total);
  });
}

// One task a range, then one a tile that merges: for few tiles with a long past.
void run_ranges(const Call& call, std::vector<QueryTile>& tiles, ThreadPool& threads) {
  struct Task {
    const QueryTile* queries;
    int64_t range, partial;
  };
  std::vector<Task> tasks;
  int64_t num_floats = 0;
  for (QueryTile& queries : tiles) {
    queries.partial = num_floats;
    for (int64_t range = queries.first_range; range < queries.last_range; ++range) {
      tasks.push_back({&queries, range, num_floats});
      num_floats += call.state_floats(queries.num_tokens * call.group);
    }
  }
  std::vector<float> partials(static_cast<size_t>(num_floats));
  threads.run(static_cast<int64_t>(tasks.size()), [&](int64_t index) {
    const Task& task = tasks[static_cast<size_t>(index)];
    const int64_t rows = task.queries->num_tokens * call.group;
    Scratch scratch = scratch_for(call, rows);
    load_queries(call, *task.queries, const_cast<float*>(scratch.tile.queries));
    run_range(call, *task.queries, task.range, false, scratch, call.state_at(partials.data() + task.partial, rows));
  });
  threads.run(static_cast<int64_t>(tiles.size()), [&](int64_t index) {
    const QueryTile& queries = tiles[static_cast<size_t>(index)];
    const int64_t rows = queries.num_tokens * call.group;
    const Scratch scratch = scratch_for(call, rows);
    clear(scratch.total, rows, call.stride);
    float* partial = partials.data() + queries.partial;
    for (int64_t range = queries.first_range; range < queries.last_range; ++range, partial += call.state_floats(rows))
      merge(scratch.total, call.state_at(partial, rows), rows, call.stride);
    finish(call, queries, scratch.total);
  });
}

// Whether to spread the ranges of a tile over threads.
bool worth_spreading(const Call& call, const std::vector<QueryTile>& tiles, int num_threads) {
  if (static_cast<int64_t>(tiles.size()) >= int64_t{4} * num_threads || num_threads == 1) return false;
  int64_t num_ranges = 0, num_floats = 0;
  for (const QueryTile& queries : tiles) {
    num_ranges += queries.last_range - queries.first_range;
    num_floats += (queries.last_range - queries.first_range) * call.state_floats(queries.num_tokens * call.group);
  }
  return num_ranges > static_cast<int64_t>(tiles.size()) &&
         num_floats * static_cast<int64_t>(sizeof(float)) <= kMaxPartialBytes;
}

}  // namespace

void run(const Loops& loops, const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window,
         KvView cache, TensorView out, Stream& stream) {
  check_arguments(shape, batch, qkv, cache, out);
  ThreadPool& threads = stream.threads();
  write_kv(shape, batch, qkv, cache, loops.narrow, threads);

  const Call call{&loops,
                  shape,
                  qkv,
                  out,
                  window,
                  cache,
                  shape.num_heads / shape.num_kv_heads,
                  (shape.head_dim + kPad - 1) / kPad * kPad};
  int64_t tile_tokens = std::max<int64_t>(1, kTileRows / call.group);
  std::vector<QueryTile> tiles = query_tiles(call, batch, tile_tokens);
  while (static_cast<int64_t>(tiles.size()) < 2 * threads.size() && tile_tokens > 1 && tile_tokens * call.group >= 16 &&
         batch.num_tokens > batch.num_seqs * 8) {
    tile_tokens /= 2;
    tiles = query_tiles(call, batch, tile_tokens);
  }
  if (worth_spreading(call, tiles, threads.size()))
    run_ranges(call, tiles, threads);
  else
    run_tiles(call, tiles, threads);
}

}  // namespace flash

namespace {

class Flash final : public AttentionBackend {
 public:
  std::string_view name() const override { return "flash"; }

  std::string why_not(const AttentionShape& shape, DType kv_dtype, Device device) const override {
    if (shape.head_dim % 8 != 0) return fmt::format("head_dim {} is not a multiple of 8", shape.head_dim);
    return why_not_on_cpu(shape, kv_dtype, device);
  }

  void run(const AttentionShape& shape, const AttentionBatch& batch, TensorView qkv, int window, KvView cache,
           TensorView out, AttentionState*, Stream& stream) const override {
    flash::run(flash::loops_for(kernels::cpu_isa()), shape, batch, qkv, window, cache, out, stream);
  }
};

}  // namespace

const AttentionBackend& flash_attention() {
  static const Flash backend;
  return backend;
}

}  // namespace lane
