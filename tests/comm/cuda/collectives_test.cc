// Reduce-scatter, all-gather, broadcast and barrier on GPUs.
#include <random>

#include "tests/comm/cuda/sum_cases.h"

namespace lane::forked {
namespace {

constexpr std::array<int64_t, 15> kByteCounts{1, 2, 3, 4, 5, 8, 11, 12, 13, 16, 31, 100, 1001, 4096, 100'003};

// Any bytes, of which many are words that mean "nothing has arrived".
std::vector<std::byte> bytes_of(int rank, int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed * 64 + static_cast<uint64_t>(rank));
  std::vector<std::byte> bytes(static_cast<size_t>(count));
  for (size_t at = 0; at < bytes.size(); at += 4) {
    const uint32_t word = random() % 2 == 0 ? 0x80000000u : static_cast<uint32_t>(random());
    std::memcpy(bytes.data() + at, &word, std::min<size_t>(4, bytes.size() - at));
  }
  return bytes;
}

void require_bytes(const std::byte* seen, const std::vector<std::byte>& wanted, const std::string& what) {
  for (size_t i = 0; i < wanted.size(); ++i)
    require(seen[i] == wanted[i], fmt::format("byte {} of {} is {:x}, not {:x}", i, what, static_cast<int>(seen[i]),
                                              static_cast<int>(wanted[i])));
}

constexpr int64_t kMargin = 32;  // before and behind

void require_untouched(const std::vector<std::byte>& seen, int64_t first, int64_t count) {
  for (int64_t i = 0; i < static_cast<int64_t>(seen.size()); ++i)
    if (i < first || i >= first + count)
      require(seen[static_cast<size_t>(i)] == std::byte{0xee}, fmt::format("byte {} is written", i - first));
}

void gather(Rank& rank, const Buffer& in, const Buffer& out, int64_t bytes, int64_t first, bool is_in_place,
            uint64_t seed) {
  rank.doing = fmt::format("all_gather of {} B at {}{}", bytes, first, is_in_place ? ", in place" : "");
  const int64_t from = kMargin + first, total = rank.size * bytes;
  const TensorView to = part_of(out, DType::kU8, from, total);
  const TensorView mine =
      is_in_place ? part_of(out, DType::kU8, from + rank.rank * bytes, bytes) : part_of(in, DType::kU8, first, bytes);
  fill_bytes(out, 0xee, from + total + kMargin, rank.stream);
  copy_to_device(bytes_of(rank.rank, bytes, seed).data(), mine, rank.stream);
  rank.group.all_gather(mine, to, rank.stream);
  rank.group.wait(rank.stream);
  const auto seen = on_host<std::byte>(part_of(out, DType::kU8, 0, from + total + kMargin), rank.stream);
  for (int r = 0; r < rank.size; ++r)
    require_bytes(seen.data() + from + r * bytes, bytes_of(r, bytes, seed), fmt::format("what rank {} gave", r));
  require_untouched(seen, from, total);
}

TEST(GpuAllGather, GivesAnyBytesToAll) {
  for (const int ranks : {2, 3, 4})
    expect_good({.ranks = ranks}, [](Rank& rank) {
      const Buffer in(rank.device, 200'000), out(rank.device, 500'000);
      uint64_t seed = 0;
      for (const int64_t bytes : kByteCounts)
        for (const int64_t first : {0, 1, 4})
          for (const bool is_in_place : {false, true})
            if (!rank.is_crowded || first == 1) gather(rank, in, out, bytes, first, is_in_place, ++seed);
    });
}

void spread(Rank& rank, const Buffer& buffer, int64_t bytes, int64_t first, int root, uint64_t seed) {
  rank.doing = fmt::format("broadcast of {} B at {} from rank {}", bytes, first, root);
  const int64_t from = kMargin + first;
  const TensorView view = part_of(buffer, DType::kU8, from, bytes);
  fill_bytes(buffer, 0xee, from + bytes + kMargin, rank.stream);
  if (rank.rank == root) copy_to_device(bytes_of(root, bytes, seed).data(), view, rank.stream);
  rank.group.broadcast(view, root, rank.stream);
  rank.group.wait(rank.stream);
  const auto seen = on_host<std::byte>(part_of(buffer, DType::kU8, 0, from + bytes + kMargin), rank.stream);
  require_bytes(seen.data() + from, bytes_of(root, bytes, seed), "what the root gave");
  require_untouched(seen, from, bytes);
}

TEST(GpuBroadcast, GivesAnyBytesOfAnyRootToAll) {
  for (const int ranks : {2, 3, 4})
    expect_good({.ranks = ranks}, [](Rank& rank) {
      const Buffer buffer(rank.device, 200'000);
      uint64_t seed = 0;
      for (int root = 0; root < rank.size; ++root)
        for (const int64_t bytes : kByteCounts)
          for (const int64_t first : {0, 3})
            if (!rank.is_crowded || first == 3) spread(rank, buffer, bytes, first, root, ++seed);
    });
}

// Both add in rank order, so that a part of the one is the other, bit for bit.
void scatter(Rank& rank, const std::array<Buffer, 3>& buffers, DType dtype, ReduceOp op, int64_t count, int64_t first,
             uint64_t seed) {
  rank.doing = fmt::format("reduce_scatter of {} {} ({}) at {}", count, name_of(dtype), net::name_of(op), first);
  const int64_t all = rank.size * count;
  std::vector<std::byte> given(static_cast<size_t>(all * size_of(dtype)));
  net::fill(dtype, op, rank.rank, all, given.data(), seed);
  const TensorView in = part_of(buffers[0], dtype, first, all), whole = part_of(buffers[1], dtype, 0, all);
  const int64_t from = 8 + first, behind = from + count + 8;
  fill_bytes(buffers[2], 0xee, behind * size_of(dtype), rank.stream);
  copy_to_device(given.data(), in, rank.stream);
  rank.group.all_reduce(in, whole, op, rank.stream);
  rank.group.reduce_scatter(in, part_of(buffers[2], dtype, from, count), op, rank.stream);
  rank.group.wait(rank.stream);
  const auto sums = on_host<std::byte>(whole, rank.stream);
  require(net::count_wrong(dtype, op, rank.size, sums.data(), all, net::Rounding::kOnce, seed) == 0,
          "the all_reduce to compare with is wrong");
  const auto seen = on_host<std::byte>(part_of(buffers[2], dtype, 0, behind), rank.stream);
  const std::byte* part = sums.data() + rank.rank * count * size_of(dtype);
  require_bytes(seen.data() + from * size_of(dtype), {part, part + count * size_of(dtype)}, "the part");
  require_untouched(seen, from * size_of(dtype), count * size_of(dtype));
}

TEST(GpuReduceScatter, IsAPartOfAllReduce) {
  for (const int ranks : {2, 3, 4})
    expect_good({.ranks = ranks}, [](Rank& rank) {
      rank.group.set_device_algorithm("two_shot");
      const std::array<Buffer, 3> buffers{Buffer(rank.device, 2 << 20), Buffer(rank.device, 2 << 20),
                                          Buffer(rank.device, 1 << 20)};
      uint64_t seed = 0;
      for (const DType dtype : kSummedTypes)
        for (const ReduceOp op : kAllOps)
          for (const int64_t count : {1, 2, 7, 8, 9, 64, 1000, 4096, 60'001})
            for (const int64_t first : {0, 1})
              if (!rank.is_crowded || (dtype == DType::kBF16 && first == 0))
                scatter(rank, buffers, dtype, op, count, first, ++seed);
    });
}

TEST(GpuBarrier, HoldsAllUntilTheLastHasCome) {
  expect_good({.ranks = 4}, [](Rank& rank) {
    for (int turn = 0; turn < 8; ++turn) {
      rank.doing = fmt::format("barrier {}", turn);
      if (turn % rank.size == rank.rank) std::this_thread::sleep_for(milliseconds(100));
      rank.shared.arrivals[0] += 1;
      rank.group.barrier(rank.stream);
      rank.group.wait(rank.stream);
      const int came = rank.shared.arrivals[0];
      require(came >= rank.size * (turn + 1), fmt::format("it ended when {} had come", came));
    }
  });
}

// Everything in turn in one stream, without a wait between.
TEST(GpuCollectives, FollowEachOtherInAStream) {
  expect_good({.ranks = 4}, [](Rank& rank) {
    constexpr int64_t kCount = 3000;
    const Buffer sums(rank.device, kCount * 4), parts(rank.device, kCount), all(rank.device, kCount * 4);
    const TensorView sum = part_of(sums, DType::kF32, 0, kCount), gathered = part_of(all, DType::kF32, 0, kCount);
    const TensorView part = part_of(parts, DType::kF32, 0, kCount / rank.size);
    for (int turn = 0; turn < (rank.is_crowded ? 3 : 200); ++turn) {
      rank.doing = fmt::format("turn {}", turn);
      const Wholes wholes{turn};
      give_wholes(rank, sum, wholes);
      rank.group.reduce_scatter(sum, part, ReduceOp::kSum, rank.stream);
      rank.group.all_gather(part, gathered, rank.stream);
      rank.group.all_reduce(sum, sum, ReduceOp::kSum, rank.stream);
      rank.group.broadcast(gathered, turn % rank.size, rank.stream);
      rank.group.barrier(rank.stream);
      rank.group.wait(rank.stream);
      check_sums(rank, sum, wholes);
      check_sums(rank, gathered, wholes);
    }
  });
}

}  // namespace
}  // namespace lane::forked
