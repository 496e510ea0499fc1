// Attention of one new token a sequence whose past is short: all that happens between two products in one kernel, with
// little shared memory. The heads of the new token are normed, rotated and written to the cache on the way.
//
// An item is a chunk (split.h) of one sequence and kv head, done by 8 warps in steps of 8 tiles of 16 keys. Keys and
// values go from memory straight into the registers of mma.m16n8k16, 16 and 8 bytes a load, by permuting what a sum is
// over (fragments.h has g = lane / 4 and t = lane % 4):
//
//   S^T = K Q^T    A = keys of warp w's tile, w = 0..7, B = queries, N = the group's heads. Dimensions are permuted
//                  alike in both: the eight that steps 2 p and 2 p + 1 want of a lane's row are 32 p + 8 t to + 7.
//   O^T = V^T P^T  A = values of 32 dimensions a warp, so that a step's result is merged where it is computed: warps
//                  hand on weights, 256 bytes a tile, and not outputs. Keys are permuted alike in both: columns 2 t,
//                  2 t + 1, 2 t + 8, 2 t + 9 of A are keys t, t + 8, t + 4, t + 12; and dimensions are permuted in
//                  the result: rows g and g + 8 of tiles 0 and 1 are 4 g to 4 g + 3.
//
// Weights of a tile are relative to its highest score; whoever sums products of several tiles has all of their highest
// scores. So a step takes one barrier of the team. All its loads, 2 * 128 * head_dim * 2 bytes, are under way before
// the first is waited for: 64 KiB a block at head_dim 128, where 35 KiB are enough for a multiprocessor of an H200 (4.8
// TB/s / 132 * 1 us), so that another block's loads fill the time in which this one computes. Registers of a thread at
// head_dim 128: 32 for keys, 32 for values, 8 for sums.
//
// Short pasts are a chain of waits and little else: the lists; then the new token's heads and the blocks' numbers; then
// keys and values, during which queries are normed and rotated.
//
// The result of a sequence is a function of that sequence alone, bit for bit.
#pragma once
#include "lane/attention/cuda/split.h"
#include "lane/attention/cuda/warp_tile.cuh"

namespace lane::cuda::attention {

// A thread of the team. It is asked anew for each item: what depends on it is then not kept in registers from one item
// to the next, while the kernel does other things.
struct Me {
  int warp, lane;

  __device__ int thread() const { return warp * 32 + lane; }
};
__device__ inline Me who_am_i() {
  const unsigned thread = ask_thread_index();
  return {static_cast<int>(thread / 32), static_cast<int>(thread % 32)};
}

struct DirectWork {
  Sequence sequence;
  int owner, kv_head, chunk, num_chunks;
  int begin, end;        // positions of the chunk
  int lowest, past_end;  // those that the query sees in the cache; the new token is at past_end if the chunk has it
  int places;            // of tile `lane` of the chunk in the cache, in tiles

  __device__ bool has_newest() const { return past_end < end; }
};

template <class T, int kDim>
struct DirectShape {
  static constexpr int kWarps = 8;
  static constexpr int kDimGroups = kDim / 32;            // warps that share a tile's values
  static constexpr int kKeyGroups = kWarps / kDimGroups;  // each of which has every kKeyGroups-th tile of a step
  static constexpr int kTiles = kWarps / kKeyGroups;      // of a step whose values a warp reads

  struct Step {
    // Queries, the new key, the new value. 64 bytes more, and the two rows that a phase of a load of 16 bytes a lane
    // reads lie in different banks.
    alignas(16) T heads[kDirectRows + 2][kDim + 32];
    // Of each tile, as B of each lane. A step writes one half, the next the other.
    Pack<uint32_t, 2> weights[2][kWarps][32];
  };
  struct Shared {
    union {
      Step step;
      Pack<float, 4> outs[kKeyGroups - 1][kDimGroups][2][32];  // of two rows of a lane
      float shares[kDirectRows][kMostDirectChunks];
    };
    Pack<float, 2> highest[2][kWarps][kDirectRows / 2];  // of a tile
    Pack<float, 2> sums[kWarps][kDirectRows / 2];
    DirectWork work;  // for later: registers are few
    bool is_last;
  };
  static constexpr int kSharedBytes = sizeof(Shared);
  static_assert(kDim % 32 == 0 && kWarps % kDimGroups == 0 && kSharedBytes <= 9216);
};

// Where the 16 keys from `position` on lie in the cache, in units of as many.
__device__ inline int tile_place(const AttentionArgs& a, const DirectWork& work, int position) {
  const int in_block = a.block_tokens / kTileTokens, tile = position / kTileTokens, index = tile / in_block;
  const int block = work.sequence.blocks[index < a.max_blocks ? index : 0];
  return (block * a.num_kv_heads + work.kv_head) * in_block + tile - index * in_block;
}

// False: there is nothing to do.
__device__ inline bool find_item(const AttentionArgs& a, const Me& me, int item, DirectWork& work) {
  const int owners = a.num_seqs * a.num_kv_heads;
  work.chunk = item / owners;
  work.owner = item - work.chunk * owners;
  const int index = work.owner / a.num_kv_heads;
  work.kv_head = work.owner - index * a.num_kv_heads;
  work.sequence = sequence_of(a, index);
  // Blocks are looked up with the lists, as if the past began at 0 and were short.
  const int guess = work.chunk * kDirectChunkTokens, length = work.sequence.length, newest = length - 1;
  work.places = tile_place(a, work, guess + me.lane * kTileTokens);
  if (work.sequence.num_tokens == 0) return false;
  if (length == 0) return work.chunk == 0;  // an empty place
  const int first = first_tile_position(newest, a.window);
  const Split split = direct_split(first, length);
  if (work.chunk >= split.num_chunks) return false;
  work.num_chunks = split.num_chunks;
  work.begin = first + work.chunk * split.chunk_tokens;
  const bool has_newest = work.chunk == split.num_chunks - 1;
  work.end = has_newest ? length : work.begin + split.chunk_tokens;
  work.lowest = first_visible(newest, a.window);
  work.past_end = has_newest ? newest : work.end;
  if (work.begin != guess) work.places = tile_place(a, work, work.begin + me.lane * kTileTokens);
  return true;
}

// Puts a head of the new token into shared memory, as kernels::head_rms_norm() and kernels::rope() would round it. A
// warp does it. Heads 0 to group - 1 are queries, then comes the key, then the value.
template <class T, int kDim>
__device__ inline void put_head(const DirectArgs& d, const Me& me, const DirectWork& work, int head, T* to) {
  constexpr int kMine = kDim / 32;  // elements of a lane
  const AttentionArgs& a = d.a;
  const int token = work.sequence.first_token, group = a.partial_rows, lane = me.lane;
  const int64_t place = head < group    ? query_place(a, token, work.kv_head * group + head)
                        : head == group ? key_place(a, token, work.kv_head)
                                        : value_place(a, token, work.kv_head);
  const auto* gain = static_cast<const T*>(head < group ? d.query_gain : head == group ? d.key_gain : nullptr);
  const int pairs = d.cos_sin != nullptr && head <= group ? d.pairs : 0;
  auto mine = load_fresh(reinterpret_cast<const Pack<T, kMine>*>(static_cast<const T*>(a.qkv) + place) + lane);
  Pack<T, kMine> gains{};
  if (gain != nullptr) gains = reinterpret_cast<const Pack<T, kMine>*>(gain)[lane];
  float cosines[kDim / 64] = {}, sines[kDim / 64] = {};
#pragma unroll
  for (int i = 0; i < kDim / 64; ++i) {
    if (lane + 32 * i >= pairs) continue;
    const float* angle = d.cos_sin + int64_t{token} * 2 * pairs + lane + 32 * i;
    cosines[i] = load_fresh(angle), sines[i] = load_fresh(angle + pairs);
  }

  if (gain != nullptr) {
    float square = 0;
    for (const T element : mine.at) square += widen(element) * widen(element);
    for (int step = 16; step > 0; step /= 2) square += shuffle_xor(square, step);
    const float scale = reciprocal_root(square / static_cast<float>(kDim) + d.eps);
#pragma unroll
    for (int i = 0; i < kMine; ++i) mine.at[i] = narrow<T>(widen(mine.at[i]) * scale * widen(gains.at[i]));
  }
  reinterpret_cast<Pack<T, kMine>*>(to)[lane] = mine;
  sync_warp();
#pragma unroll
  for (int i = 0; i < kDim / 64; ++i) {
    const int j = lane + 32 * i;
    if (j >= pairs) continue;
    const float left = widen(to[j]), right = widen(to[j + pairs]);
    to[j] = narrow<T>(left * cosines[i] - right * sines[i]);
    to[j + pairs] = narrow<T>(right * cosines[i] + left * sines[i]);
  }
}

// The new token's key and value go to the cache.
template <class T, int kDim>
__device__ inline void write_newest(const AttentionArgs& a, const Me& me, const DirectWork& work,
                                    const typename DirectShape<T, kDim>::Step& step) {
  constexpr int kPieces = kDim / 8;
  if (me.thread() >= 2 * kPieces) return;
  const int is_value = me.thread() / kPieces, column = me.thread() % kPieces * 8, newest = work.past_end;
  const int block = work.sequence.blocks[newest / a.block_tokens];
  T* const to = static_cast<T*>(is_value ? a.values : a.keys) + place_in_cache(a, block, work.kv_head, newest) + column;
  *reinterpret_cast<Pack<T, 8>*>(to) =
      *reinterpret_cast<const Pack<T, 8>*>(step.heads[kDirectRows + is_value] + column);
}

// What a lane has of a step's keys and values.
template <class T, int kDim>
struct StepTiles {
  using Shape = DirectShape<T, kDim>;

  Pack<uint32_t, 4> keys[2][kDim / 32];        // of key g + 8 * half, elements 32 p + 8 t on
  Pack<uint32_t, 2> values[Shape::kTiles][4];  // of key t + 4 j, elements column() on

  // The tile i of a step whose values this warp reads, and this lane's first column.
  __device__ static int tile_of(const Me& me, int i) { return me.warp / Shape::kDimGroups + i * Shape::kKeyGroups; }
  __device__ static int column(const Me& me) { return me.warp % Shape::kDimGroups * 32 + me.lane / 4 * 4; }

  // Of the step at position `begin`. Tiles are read whole, whatever the query sees, and the last one for those beyond
  // it: loads that no condition guards are all under way at once.
  __device__ void load(const AttentionArgs& a, const Me& me, DirectWork& work, int begin) {
    const int first = (begin - work.begin) / kTileTokens, last = (work.end - 1 - begin) / kTileTokens;
    if (first > 0 && first % 32 == 0)  // the next 32 tiles
      work.places = tile_place(a, work, begin + (me.lane < last ? me.lane : last) * kTileTokens);
    const auto at = [&](const void* cache, int tile) {
      const int place = shuffle(work.places, (first + (tile < last ? tile : last)) % 32);
      return static_cast<const T*>(cache) + int64_t{place} * (kTileTokens * kDim);
    };
    const T* key = at(a.keys, me.warp) + me.lane / 4 * kDim + me.lane % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int p = 0; p < kDim / 32; ++p)
        keys[half][p] = load_fresh(reinterpret_cast<const Pack<uint32_t, 4>*>(key + half * 8 * kDim + 32 * p));
#pragma unroll
    for (int i = 0; i < Shape::kTiles; ++i) {
      const T* value = at(a.values, tile_of(me, i)) + me.lane % 4 * kDim + column(me);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        values[i][j] = load_fresh(reinterpret_cast<const Pack<uint32_t, 2>*>(value + j * 4 * kDim));
    }
  }

  // Puts the new token in its place, and zeros in place of values that the query does
  // not see: they may never have been written, and 0 times NaN is NaN. Hidden keys may be anything.
  __device__ void mend(const Me& me, const DirectWork& work, int begin, const typename Shape::Step& step) {
    const T *new_key = step.heads[kDirectRows], *new_value = step.heads[kDirectRows + 1];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (begin + me.warp * kTileTokens + me.lane / 4 + 8 * half == work.past_end)
#pragma unroll
        for (int p = 0; p < kDim / 32; ++p)
          keys[half][p] = *reinterpret_cast<const Pack<uint32_t, 4>*>(new_key + me.lane % 4 * 8 + 32 * p);
    const auto newest = *reinterpret_cast<const Pack<uint32_t, 2>*>(new_value + column(me));
#pragma unroll
    for (int i = 0; i < Shape::kTiles; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int position = begin + tile_of(me, i) * kTileTokens + me.lane % 4 + 4 * j;
        if (position < work.lowest || position > work.past_end) values[i][j] = {};
        if (position == work.past_end) values[i][j] = newest;
      }
  }
};

// The running softmax of the two rows 2 t and 2 t + 1. `sum` is of this lane's keys alone until the end.
struct DirectState {
  float highest[2] = {kNothing, kNothing};
  float sum[2] = {0, 0};
  float out[2][4] = {};  // element e of row 2 t + e % 2
};

// Scores of this warp's tile: element e of key g + 8 (e / 2) and row 2 t + e % 2.
template <class T, int kDim>
__device__ inline void score_tile(const AttentionArgs& a, const Me& me, const DirectWork& work,
                                  const StepTiles<T, kDim>& tiles, int position,
                                  const typename DirectShape<T, kDim>::Step& step, float (&scores)[4]) {
  const int lane = me.lane;
  const T* queries = step.heads[lane / 4] + lane % 4 * 8;
  float parts[2][4] = {};  // two sums that do not wait for each other
#pragma unroll
  for (int p = 0; p < kDim / 32; ++p) {
    const auto b = *reinterpret_cast<const Pack<uint32_t, 4>*>(queries + 32 * p);
    const auto &upper = tiles.keys[0][p].at, &lower = tiles.keys[1][p].at;
#pragma unroll
    for (int u = 0; u < 2; ++u)
      multiply_add<T>(parts[u], {upper[2 * u], lower[2 * u], upper[2 * u + 1], lower[2 * u + 1]}, b.at[2 * u],
                      b.at[2 * u + 1]);
  }
  const ScoreScale scale(a);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int at = position + lane / 4 + 8 * (e / 2);
    scores[e] = at >= work.lowest && at < work.end ? scale(parts[0][e] + parts[1][e]) : kNothing;
  }
}

// Turns scores into weights relative to the tile's highest, and hands both to the others.
template <class T, int kDim>
__device__ inline void put_weights(const Me& me, float (&scores)[4], float (&highest)[2], int half,
                                   typename DirectShape<T, kDim>::Shared& shared) {
  const int lane = me.lane, group = lane / 4;
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    highest[c] = greater(scores[c], scores[2 + c]);
#pragma unroll
    for (int mask = 4; mask < 32; mask *= 2) highest[c] = greater(highest[c], shuffle_xor(highest[c], mask));
    const float base = highest[c] == kNothing ? 0 : highest[c];  // where there is no tile
    scores[c] = power_of_2(scores[c] - base);
    scores[2 + c] = power_of_2(scores[2 + c] - base);
    const int reader = (2 * (lane % 4) + c) * 4 + group % 4;
    shared.step.weights[half][me.warp][reader].at[group / 4] = pack<T>(scores[c], scores[2 + c]);
  }
  if (lane < 4) shared.highest[half][me.warp][lane] = {{highest[0], highest[1]}};
}

// Takes a step's tiles into the running softmax. `scores` and `highest` are this warp's own weights.
template <class T, int kDim>
__device__ inline void take_step(const Me& me, const StepTiles<T, kDim>& tiles, int num_tokens, int half,
                                 const float (&scores)[4], const float (&highest)[2],
                                 const typename DirectShape<T, kDim>::Shared& shared, DirectState& state) {
  using Shape = DirectShape<T, kDim>;
  const int lane = me.lane;
  float base[2] = {state.highest[0], state.highest[1]};
#pragma unroll
  for (int warp = 0; warp < Shape::kWarps; ++warp) {
    const auto of_tile = shared.highest[half][warp][lane % 4];
    for (int c = 0; c < 2; ++c) base[c] = greater(base[c], of_tile.at[c]);
  }
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const float shrink = power_of_2(state.highest[c] - base[c]);
    state.highest[c] = base[c];
    state.sum[c] = state.sum[c] * shrink + (scores[c] + scores[2 + c]) * power_of_2(highest[c] - base[c]);
#pragma unroll
    for (int j = 0; j < 2; ++j) state.out[j][c] *= shrink, state.out[j][2 + c] *= shrink;
  }
#pragma unroll
  for (int i = 0; i < Shape::kTiles; ++i) {
    const int tile = StepTiles<T, kDim>::tile_of(me, i);
    if (tile * kTileTokens >= num_tokens) continue;
    const auto of_tile = shared.highest[half][tile][lane % 4];
    const auto b = shared.step.weights[half][tile][lane];
    const float weights[2] = {power_of_2(of_tile.at[0] - base[0]), power_of_2(of_tile.at[1] - base[1])};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const auto& v = tiles.values[i];
      const uint32_t a[4] = {lower_halves(v[0].at[j], v[2].at[j]), upper_halves(v[0].at[j], v[2].at[j]),
                             lower_halves(v[1].at[j], v[3].at[j]), upper_halves(v[1].at[j], v[3].at[j])};
      float part[4] = {};
      multiply_add<T>(part, a, b.at[0], b.at[1]);
#pragma unroll
      for (int e = 0; e < 4; ++e) state.out[j][e] += part[e] * weights[e % 2];
    }
  }
}

// A row of a chunk's partial result: highest score, sum, two of nothing, outputs.
template <int kDim>
__device__ inline float* partial_row(const AttentionArgs& a, const DirectWork& work, int chunk, int row) {
  const int64_t rows = (int64_t{work.owner} * a.grid_chunks + chunk) * a.partial_rows;
  return a.partials + (rows + row) * (kDim + kPartialHead);
}

template <class T, int kDim>
__device__ inline void store_row(const AttentionArgs& a, const DirectWork& work, int row, int column,
                                 const Pack<float, 4>& values) {
  const int64_t place = out_place(a, work.sequence.first_token, work.kv_head * a.partial_rows + row);
  T* const to = static_cast<T*>(a.out) + place + column;
  *reinterpret_cast<Pack<uint32_t, 2>*>(to) = {
      {pack<T>(values.at[0], values.at[1]), pack<T>(values.at[2], values.at[3])}};
}

// Adds up what the warps have: to the result if there is but one chunk, or to the chunk's partial result.
template <class T, int kDim>
__device__ inline void add_warps(const AttentionArgs& a, const Me& me, const DirectWork& work, DirectState& state,
                                 typename DirectShape<T, kDim>::Shared& shared) {
  using Shape = DirectShape<T, kDim>;
  const int lane = me.lane, keys = me.warp / Shape::kDimGroups, dims = me.warp % Shape::kDimGroups;
  for (float& sum : state.sum)
    for (int mask = 4; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
  sync_block();  // the steps' memory is free
  if (lane < 4) shared.sums[me.warp][lane] = {{state.sum[0], state.sum[1]}};
  Pack<float, 4> outs[2];
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    outs[c] = {{state.out[0][c], state.out[0][2 + c], state.out[1][c], state.out[1][2 + c]}};
    if (keys > 0) shared.outs[keys - 1][dims][c][lane] = outs[c];
  }
  sync_block();
  if (keys > 0) return;
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const int row = 2 * (lane % 4) + c, column = StepTiles<T, kDim>::column(me);
    if (row >= a.partial_rows) continue;
    float sum = 0;
    for (int warp = 0; warp < Shape::kWarps; ++warp) sum += shared.sums[warp][lane % 4].at[c];
    for (int other = 0; other < Shape::kKeyGroups - 1; ++other)
      for (int i = 0; i < 4; ++i) outs[c].at[i] += shared.outs[other][dims][c][lane].at[i];
    if (work.num_chunks == 1) {
      for (float& out : outs[c].at) out = quotient(out, sum);
      store_row<T, kDim>(a, work, row, column, outs[c]);
    } else {
      float* const partial = partial_row<kDim>(a, work, work.chunk, row);
      *reinterpret_cast<Pack<float, 4>*>(partial + kPartialHead + column) = outs[c];
      if (column == 0) *reinterpret_cast<Pack<float, 2>*>(partial) = {{state.highest[c], sum}};
    }
  }
}

// Run by the last item of a sequence and head to arrive: merges the chunks' partial results in their order. A warp has
// a row, a lane a chunk.
template <class T, int kDim>
__device__ inline void add_chunks(const AttentionArgs& a, const Me& me, const DirectWork& work,
                                  typename DirectShape<T, kDim>::Shared& shared) {
  using Shape = DirectShape<T, kDim>;
  static_assert(Shape::kWarps == kDirectRows && kMostDirectChunks == 32);
  const int group = a.partial_rows, mine = me.warp, lane = me.lane;
  Pack<float, 2> state{{kNothing, 0}};
  if (mine < group && lane < work.num_chunks)
    state = load_fresh(reinterpret_cast<const Pack<float, 2>*>(partial_row<kDim>(a, work, lane, mine)));
  float highest = state.at[0];
  for (int mask = 16; mask > 0; mask /= 2) highest = greater(highest, shuffle_xor(highest, mask));
  const float weight = power_of_2(state.at[0] - (highest == kNothing ? 0 : highest));
  float sum = weight * state.at[1];
  for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  shared.shares[mine][lane] = quotient(weight, sum);
  sync_block();
  for (int i = me.thread(); i < group * (kDim / 4); i += Shape::kWarps * 32) {
    const int row = i / (kDim / 4), column = i % (kDim / 4) * 4;
    Pack<float, 4> out{};
#pragma unroll 4
    for (int chunk = 0; chunk < work.num_chunks; ++chunk) {
      const float* from = partial_row<kDim>(a, work, chunk, row) + kPartialHead + column;
      const auto part = load_fresh(reinterpret_cast<const Pack<float, 4>*>(from));
      for (int e = 0; e < 4; ++e) out.at[e] += shared.shares[row][chunk] * part.at[e];
    }
    store_row<T, kDim>(a, work, row, column, out);
  }
}

// Item `item` of a step: a chunk of a sequence and kv head, chunks outermost. Done by 256 threads, 0 to 255 of a block,
// that come and return together; blocks share the items as they like. `memory`: kSharedBytes, at a multiple of 16; it
// is free for other things when they return. What wrote qkv is done
// when wait_for_qkv() returns, which all threads call; the lists, cos_sin and the keys and values of earlier tokens are
// there before.
template <class T, int kDim, class Wait>
__device__ inline void direct_item(const DirectArgs& d, int item, char* memory, Wait&& wait_for_qkv) {
  using Shape = DirectShape<T, kDim>;
  const AttentionArgs& a = d.a;
  auto& shared = *reinterpret_cast<typename Shape::Shared*>(memory);
  const Me me = who_am_i();
  DirectWork work;
  if (!find_item(a, me, item, work)) return;
  const int group = a.partial_rows;
  if (work.sequence.length == 0) {
    wait_for_qkv();
    for (int i = me.thread(); i < group * (kDim / 4); i += Shape::kWarps * 32)
      store_row<T, kDim>(a, work, i / (kDim / 4), i % (kDim / 4) * 4, {});
    return;
  }

  if (me.thread() == 0) shared.work = work;
  const int num_heads = work.has_newest() ? group + 2 : group;
  if (d.cos_sin != nullptr && me.warp == 0 && me.lane * 16 < 2 * d.pairs)
    prefetch(d.cos_sin + int64_t{work.sequence.first_token} * 2 * d.pairs + me.lane * 16);
  StepTiles<T, kDim> tiles;
  DirectState state;
#pragma unroll 1
  for (int begin = work.begin; begin < work.end; begin += kStepTokens) {
    tiles.load(a, me, work, begin);
    if (begin == work.begin) {
      wait_for_qkv();
#pragma unroll 1
      for (int head = me.warp; head < num_heads; head += Shape::kWarps)
        put_head<T, kDim>(d, me, work, head, shared.step.heads[head < group ? head : kDirectRows + head - group]);
      sync_block();
    }
    const int half = (begin - work.begin) / kStepTokens % 2;
    if (begin < work.lowest || begin + kStepTokens > work.past_end) tiles.mend(me, work, begin, shared.step);
    float scores[4], highest[2];
    score_tile<T, kDim>(a, me, work, tiles, begin + me.warp * kTileTokens, shared.step, scores);
    put_weights<T, kDim>(me, scores, highest, half, shared);
    sync_block();
    take_step<T, kDim>(me, tiles, work.end - begin, half, scores, highest, shared, state);
  }
  if (shared.work.has_newest()) write_newest<T, kDim>(a, me, shared.work, shared.step);
  add_warps<T, kDim>(a, me, shared.work, state, shared);
  if (shared.work.num_chunks > 1) {
    sync_block();
    if (me.thread() == 0)
      shared.is_last = arrive(a.counters + shared.work.owner, static_cast<uint32_t>(shared.work.num_chunks));
    sync_block();
    if (shared.is_last) add_chunks<T, kDim>(a, me, shared.work, shared);
  }
  sync_block();
}

template <class T, int kDim>
__global__ void __launch_bounds__(DirectShape<T, kDim>::kWarps * 32, 2)
    direct_kernel(const __grid_constant__ DirectArgs d) {
  let_next_kernel_start();
  bool has_waited = !d.a.is_settled;
  if (has_waited) wait_for_previous_kernel();
  // Chunks that no sequence has are not even looked at.
  const Me me = who_am_i();
  int longest = 0;
  for (int i = me.lane; i < d.a.num_seqs; i += 32) longest = d.a.kv_length[i] > longest ? d.a.kv_length[i] : longest;
  for (int mask = 16; mask > 0; mask /= 2) {
    const int other = shuffle(longest, me.lane ^ mask);
    longest = other > longest ? other : longest;
  }
  const int items = d.a.num_seqs * d.a.num_kv_heads * direct_chunks(longest, d.a.window);
  for (int item = block_index().x; item < items; item += grid_width())
    direct_item<T, kDim>(d, item, shared_memory(), [&] {
      if (!has_waited) wait_for_previous_kernel();
      has_waited = true;
    });
  if (!has_waited) wait_for_previous_kernel();  // so that the end of this kernel is the end of all before it
}

}  // namespace lane::cuda::attention
