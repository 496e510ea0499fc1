#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "lane/kernels/cpu/isa.h"
#include "lane/kernels/cpu/layout.h"

// Which tile is computed when, and by whom. Inputs are added in order into one accumulator whatever is decided here,
// so every choice below is about speed alone.
namespace lane::kernels::cpu {
namespace {

constexpr int64_t kInnerK = 512;            // 16 KB of bfloat16 weights of one group: half of a first-level cache
constexpr int64_t kBlockRows = 96;          // with kInnerK inputs 192 KB of x: second-level cache
constexpr int64_t kBlockGroups = 16;        // columns that one task of a large product computes, in groups
constexpr int64_t kTaskBytes = 256 * 1024;  // of weights, per task of a small product
constexpr int64_t kSerialFlops = 1 << 17;   // a product below this is over before another thread has woken up

struct Product {
  const TileKernels& kernels;
  const float* x;
  const char* w;
  const float* bias;
  float* out;
  int64_t m, n, k;
  int64_t pair_bytes, group_bytes;
};

// Inputs [k_begin, k_begin + k) of the rows of one tile, at `x`, times a few groups.
struct RowTile {
  const float* x;
  int64_t x_stride;
  int64_t row, num_rows;
  int64_t k_begin, k;
};

// The last group of W when n is not a multiple of 16: through a buffer, since only n columns of `out` exist.
void run_edge(const Product& p, const RowTile& rows, int64_t group, Tile t) {
  float edge[TileKernels::kMostRows * kGroup] = {};
  const int64_t num_columns = p.n - group * kGroup;
  if (t.init)
    for (int64_t r = 0; r < rows.num_rows; ++r) std::copy_n(t.init + r * t.init_stride, num_columns, edge + r * kGroup);
  float* const out = t.out;
  t.init = t.out = edge;
  t.init_stride = t.out_stride = kGroup;
  p.kernels.narrow[rows.num_rows - 1](t);
  for (int64_t r = 0; r < rows.num_rows; ++r) std::copy_n(edge + r * kGroup, num_columns, out + r * p.n);
}

void run_tile(const Product& p, const RowTile& rows, int64_t group, int64_t end_group) {
  const int wide_groups = p.kernels.wide_groups[rows.num_rows - 1];
  for (; group < end_group;) {
    const int64_t column = group * kGroup;
    float* const out = p.out + rows.row * p.n + column;
    Tile t{rows.x,        rows.x_stride, p.w + group * p.group_bytes + rows.k_begin / 2 * p.pair_bytes,
           p.group_bytes, rows.k,        out,
           p.n,           out,           p.n};
    if (rows.k_begin == 0) t.init = p.bias ? p.bias + column : nullptr, t.init_stride = 0;
    const int64_t whole_groups = std::min(end_group, p.n / kGroup) - group;
    if (whole_groups >= wide_groups) {
      p.kernels.wide[rows.num_rows - 1](t);
      group += wide_groups;
    } else if (whole_groups > 0) {
      p.kernels.narrow[rows.num_rows - 1](t);
      ++group;
    } else {
      run_edge(p, rows, group, t);
      ++group;
    }
  }
}

struct Range {
  int64_t begin, end;
};

// Rows of the i-th of `num_tiles` tiles: as many as the kernels take, and the last at least three, since the kernels
// of one and two rows compute at half speed.
Range tile_rows(int64_t num_rows, int64_t max_rows, int64_t num_tiles, int64_t i) {
  const auto begin_of = [&](int64_t tile) {
    if (tile == num_tiles) return num_rows;
    return tile > 0 && tile == num_tiles - 1 ? std::min(tile * max_rows, num_rows - 3) : tile * max_rows;
  };
  return {begin_of(i), begin_of(i + 1)};
}

float* scratch(int64_t count) {
  thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < count) memory.resize(count);
  return memory.data();
}

// One task: some rows times some groups. `outer_k` inputs are finished for all groups before the next are begun,
// `inner_k` for all rows of a group.
void run_block(const Product& p, Range rows, Range groups, int64_t outer_k, int64_t inner_k) {
  const int64_t num_rows = rows.end - rows.begin;
  const int64_t num_tiles = (num_rows + p.kernels.max_rows - 1) / p.kernels.max_rows;
  const Range last_tile = tile_rows(num_rows, p.kernels.max_rows, num_tiles, num_tiles - 1);
  const int64_t group_step = p.kernels.wide_groups[last_tile.end - last_tile.begin - 1];  // the smallest tile's
  const bool staged = p.kernels.stage || outer_k < p.k;
  const int64_t inputs_per_word = p.kernels.stage ? 2 : 1;
  for (int64_t k = 0; k < p.k; k += outer_k) {
    const int64_t k_here = std::min(outer_k, p.k - k);
    const float* x = p.x + rows.begin * p.k + k;
    int64_t x_stride = p.k;
    if (staged) {  // rows a power of two apart would share cache sets: 16 more words part them
      const int64_t stride = k_here / inputs_per_word + 16;
      float* const staging = scratch(num_rows * stride);
      if (p.kernels.stage)
        p.kernels.stage(x, p.k, num_rows, k_here, staging, stride);
      else
        for (int64_t r = 0; r < num_rows; ++r) std::copy_n(x + r * p.k, k_here, staging + r * stride);
      x = staging;
      x_stride = stride;
    }
    for (int64_t group = groups.begin; group < groups.end; group += group_step)
      for (int64_t inner = 0; inner < k_here; inner += inner_k)
        for (int64_t tile = 0; tile < num_tiles; ++tile) {
          const Range in_tile = tile_rows(num_rows, p.kernels.max_rows, num_tiles, tile);
          const RowTile part{x + in_tile.begin * x_stride + inner / inputs_per_word,
                             x_stride,
                             rows.begin + in_tile.begin,
                             in_tile.end - in_tile.begin,
                             k + inner,
                             std::min(inner_k, k_here - inner)};
          run_tile(p, part, group, std::min(group + group_step, groups.end));
        }
  }
}

// Few rows: reading W is the cost. Each task reads a piece of it from front to end, once.
void run_small(const Product& p, ThreadPool& threads) {
  const int64_t num_groups = (p.n + kGroup - 1) / kGroup;
  const int64_t step = p.kernels.wide_groups[0];
  int64_t groups_per_task = std::max<int64_t>(step, kTaskBytes / p.group_bytes / step * step);
  if (2 * p.m * p.n * p.k < kSerialFlops) groups_per_task = num_groups;
  const int64_t inner_k = p.m <= p.kernels.max_rows ? p.k : kInnerK;
  threads.run((num_groups + groups_per_task - 1) / groups_per_task, [&](int64_t task) {
    const int64_t begin = task * groups_per_task;
    run_block(p, {0, p.m}, {begin, std::min(begin + groups_per_task, num_groups)}, p.k, inner_k);
  });
}

// Many rows: arithmetic is the cost. Tasks that share a piece of W follow one another.
void run_large(const Product& p, ThreadPool& threads) {
  const int64_t num_groups = (p.n + kGroup - 1) / kGroup;
  const int64_t row_blocks = (p.m + kBlockRows - 1) / kBlockRows;
  const int64_t group_blocks = (num_groups + kBlockGroups - 1) / kBlockGroups;
  const int64_t max_rows = p.kernels.max_rows;
  const int64_t num_tiles = (p.m + max_rows - 1) / max_rows;
  threads.run(row_blocks * group_blocks, [&](int64_t task) {
    const int64_t block = task % row_blocks, columns = task / row_blocks;
    const int64_t first = num_tiles * block / row_blocks, last = num_tiles * (block + 1) / row_blocks;
    run_block(p, {first * max_rows, std::min(last * max_rows, p.m)},
              {num_groups * columns / group_blocks, num_groups * (columns + 1) / group_blocks}, kInnerK, kInnerK);
  });
}

}  // namespace

void matmul(const Isa& isa, TensorView x, const PackedMatrix& weight, TensorView bias, TensorView out,
            ThreadPool& threads) {
  const TileKernels& kernels = weight.dtype() == DType::kF32    ? isa.f32
                               : weight.dtype() == DType::kBF16 ? isa.bf16
                                                                : isa.f16;
  const Layout layout(weight.dtype(), weight.n(), weight.k());
  const Product product{kernels,
                        x.as<float>(),
                        static_cast<const char*>(weight.data()),
                        bias.data ? bias.as<float>() : nullptr,
                        out.as<float>(),
                        x.rows(),
                        weight.n(),
                        weight.k(),
                        layout.pair_bytes,
                        layout.group_bytes};
  if (product.m == 0) return;
  if (product.m <= 4 * kernels.max_rows)
    run_small(product, threads);
  else
    run_large(product, threads);
}

const Isa& choose_isa(std::span<const Candidate> candidates, std::string_view cap) {
  constexpr std::string_view kNames[] = {"auto", "avx512_bf16", "avx512", "avx2", "baseline"};
  if (std::find(std::begin(kNames), std::end(kNames), cap) == std::end(kNames))
    throw Error(ErrorCode::kInvalidArgument,
                "LANE_ISA is \"" + std::string(cap) + "\": expected auto, baseline, avx2, avx512 or avx512_bf16");
  auto first =
      std::find_if(candidates.begin(), candidates.end(), [&](const Candidate& c) { return c.isa->name == cap; });
  if (first == candidates.end()) first = candidates.begin();
  first = std::find_if(first, candidates.end(), [](const Candidate& c) { return c.missing == nullptr; });
  ensure(first != candidates.end(), "the last candidate runs everywhere");
  return *first->isa;
}

}  // namespace lane::kernels::cpu
