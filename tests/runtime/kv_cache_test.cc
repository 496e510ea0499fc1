#include "lane/runtime/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "lane/base/random.h"

namespace lane {
namespace {

using Tokens = std::vector<int32_t>;

Tokens count_up(int32_t from, int64_t count) {
  Tokens tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(from + static_cast<int32_t>(i));
  return tokens;
}

// A sequence that was computed: its blocks are published.
Tokens computed(BlockPool& pool, const Tokens& tokens) {
  Tokens table;
  const int64_t known = pool.find_prefix(tokens, table) / pool.block_tokens();
  EXPECT_TRUE(pool.allocate(pool.blocks_for(static_cast<int64_t>(tokens.size())) - known, table));
  pool.publish(tokens, table, known);
  return table;
}

TEST(KvCache, LayersDoNotOverlap) {
  const KvLayout layout{.num_layers = 3, .num_kv_heads = 2, .head_dim = 8, .block_tokens = 4, .dtype = DType::kF16};
  EXPECT_EQ(layout.block_bytes(), 2 * 3 * 4 * 2 * 8 * 2);
  const KvCache cache(layout, 5, {});
  ASSERT_EQ(cache.layers().size(), 3u);
  std::set<char*> starts;
  for (const KvView& layer : cache.layers())
    for (const TensorView& view : {layer.keys, layer.values}) {
      EXPECT_EQ(view.shape, (std::array<int64_t, 4>{5, 2, 4, 8}));
      EXPECT_EQ(view.dtype, DType::kF16);
      starts.insert(static_cast<char*>(view.data));
    }
  ASSERT_EQ(starts.size(), 6u);
  for (auto it = starts.begin(); std::next(it) != starts.end(); ++it)
    EXPECT_EQ(*std::next(it) - *it, cache.layers()[0].keys.bytes());
}

TEST(BlockPool, AllOrNothing) {
  BlockPool pool(4, 16);
  Tokens table;
  EXPECT_TRUE(pool.allocate(3, table));
  EXPECT_EQ(pool.num_available(), 1);
  EXPECT_FALSE(pool.allocate(2, table));
  EXPECT_EQ(table.size(), 3u);
  EXPECT_TRUE(pool.allocate(0, table));
  EXPECT_TRUE(pool.allocate(1, table));
  EXPECT_EQ(std::set<int32_t>(table.begin(), table.end()).size(), 4u);
  pool.release(table);
  EXPECT_TRUE(table.empty());
  EXPECT_EQ(pool.num_available(), 4);
}

TEST(BlockPool, FindsTheLongestPrefixButNeverAll) {
  BlockPool pool(10, 4);
  Tokens first = computed(pool, count_up(0, 12));
  Tokens table;
  EXPECT_EQ(pool.find_prefix(count_up(0, 12), table), 8);  // the last token gives the logits
  EXPECT_EQ(table, Tokens({first[0], first[1]}));
  EXPECT_EQ(pool.num_references(first[0]), 2);
  pool.release(table);
  EXPECT_EQ(pool.find_prefix(count_up(0, 13), table), 12);
  pool.release(table);
  EXPECT_EQ(pool.find_prefix(count_up(0, 4), table), 0);
  EXPECT_EQ(pool.find_prefix(count_up(0, 5), table), 4);
  pool.release(table);
  Tokens other = count_up(0, 12);
  other[5] = 99;
  EXPECT_EQ(pool.find_prefix(other, table), 4);
  pool.release(table);
  EXPECT_EQ(pool.find_prefix(count_up(4, 9), table), 0) << "a block counts only after what was before it";
  pool.release(first);
  EXPECT_EQ(pool.num_available(), 10);
}

TEST(BlockPool, UnreferencedBlocksAreFoundUntilUsed) {
  BlockPool pool(4, 4);
  Tokens a = computed(pool, count_up(0, 8)), b = computed(pool, count_up(100, 8));
  pool.release(b);
  pool.release(a);
  EXPECT_EQ(pool.num_available(), 4);
  Tokens table, fresh;
  ASSERT_TRUE(pool.allocate(1, fresh));  // least recently freed: b's end
  EXPECT_EQ(pool.find_prefix(count_up(100, 9), table), 4);
  pool.release(table);
  EXPECT_EQ(pool.find_prefix(count_up(0, 9), table), 8);
  pool.release(table);
  ASSERT_TRUE(pool.allocate(1, fresh));  // b's beginning: it was freed before a was last
  EXPECT_EQ(pool.find_prefix(count_up(100, 9), table), 0);
  EXPECT_EQ(pool.find_prefix(count_up(0, 9), table), 8);
}

TEST(BlockPool, BlocksThatCannotBeFoundAreUsedFirst) {
  BlockPool pool(3, 4);
  Tokens cached = computed(pool, count_up(0, 8)), scratch;
  ASSERT_TRUE(pool.allocate(1, scratch));
  const int32_t unpublished = scratch[0];
  pool.release(cached);
  pool.release(scratch);
  ASSERT_TRUE(pool.allocate(1, scratch));
  EXPECT_EQ(scratch[0], unpublished);
  EXPECT_EQ(pool.find_prefix(count_up(0, 9), cached), 8);
}

TEST(BlockPool, TheSameContentTwice) {
  BlockPool pool(8, 4);
  Tokens a, b, table;  // computed side by side
  ASSERT_TRUE(pool.allocate(2, a) && pool.allocate(3, b));
  pool.publish(count_up(0, 8), a);
  pool.publish(count_up(0, 12), b);  // continues the chain of a
  EXPECT_TRUE(pool.is_published(a[1]));
  EXPECT_FALSE(pool.is_published(b[1]));
  EXPECT_EQ(pool.find_prefix(count_up(0, 13), table), 12);
  EXPECT_EQ(table, Tokens({a[0], a[1], b[2]}));
  pool.release(table), pool.release(a), pool.release(b);
  EXPECT_EQ(pool.num_available(), 8);
}

TEST(BlockPool, AChainWhoseBeginningWentIsMadeAnew) {
  BlockPool pool(4, 4);
  Tokens a, b, table;
  ASSERT_TRUE(pool.allocate(1, a) && pool.allocate(2, b));
  pool.publish(count_up(0, 4), a);
  pool.publish(count_up(0, 8), b);  // its second block continues a[0]
  pool.release(a);
  ASSERT_TRUE(pool.allocate(2, table));  // a[0] is used for something else
  EXPECT_EQ(pool.find_prefix(count_up(0, 9), a), 0);
  pool.release(table);
  Tokens again = computed(pool, count_up(0, 8));
  EXPECT_EQ(pool.find_prefix(count_up(0, 9), table), 8);
  EXPECT_EQ(table, again);
  pool.release(table), pool.release(again), pool.release(b);
  EXPECT_EQ(pool.num_available(), 4);
}

TEST(BlockPool, PublishedInPieces) {
  BlockPool pool(8, 4);
  const Tokens tokens = count_up(0, 23);
  Tokens table, found;
  ASSERT_TRUE(pool.allocate(6, table));
  for (int64_t computed = 0; computed <= 23; ++computed) {
    pool.publish(std::span(tokens).first(static_cast<size_t>(computed)), table, std::max<int64_t>(0, computed - 1) / 4);
    EXPECT_EQ(pool.find_prefix(tokens, found), computed / 4 * 4);
    pool.release(found);
  }
}

TEST(BlockPool, RefusesNonsense) {
  EXPECT_THROW(BlockPool(0, 16), Error);
  EXPECT_THROW(BlockPool(4, 0), Error);
  BlockPool pool(2, 4);
  Tokens table{0};
  EXPECT_THROW(pool.release(table), Error);  // nobody holds it
}

// Thousands of random operations against what blocks are known to hold.
TEST(BlockPool, RandomUse) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    uint64_t counter = 0;
    const auto random = [&](uint64_t below) { return static_cast<int64_t>(random_bits(seed, counter++) % below); };
    const int block_tokens = static_cast<int>(1 + random(4));
    BlockPool pool(3 + random(30), block_tokens);
    std::vector<std::pair<Tokens, Tokens>> held;  // tokens, table
    std::map<int32_t, Tokens> holds;              // block -> all tokens up to its end, once published
    for (int turn = 0; turn < 2000; ++turn) {
      if (!held.empty() && random(2) == 0) {
        const auto which = static_cast<size_t>(random(held.size()));
        pool.release(held[which].second);
        held.erase(held.begin() + static_cast<int64_t>(which));
      } else {
        Tokens tokens;  // of two values: prefixes are common
        for (int64_t i = random(20) + 1; i > 0; --i) tokens.push_back(static_cast<int32_t>(random(12) == 0));
        Tokens table;
        const int64_t found = pool.find_prefix(tokens, table);
        ASSERT_EQ(found, static_cast<int64_t>(table.size()) * block_tokens);
        ASSERT_LT(found, static_cast<int64_t>(tokens.size()));
        for (size_t i = 0; i < table.size(); ++i)
          ASSERT_EQ(holds.at(table[i]),
                    Tokens(tokens.begin(), tokens.begin() + static_cast<int64_t>(i + 1) * block_tokens));
        const auto known = static_cast<int64_t>(table.size());
        if (!pool.allocate(pool.blocks_for(static_cast<int64_t>(tokens.size())) - known, table)) {
          ASSERT_EQ(static_cast<int64_t>(table.size()), known);
          pool.release(table);
          continue;
        }
        for (auto i = static_cast<size_t>(known); i < table.size(); ++i) {
          ASSERT_EQ(pool.num_references(table[i]), 1);
          holds.erase(table[i]);
        }
        if (random(4) != 0) {
          pool.publish(tokens, table, known);
          for (int64_t i = known; (i + 1) * block_tokens <= static_cast<int64_t>(tokens.size()); ++i)
            holds[table[static_cast<size_t>(i)]] = Tokens(tokens.begin(), tokens.begin() + (i + 1) * block_tokens);
        }
        held.emplace_back(tokens, table);
      }
      std::map<int32_t, int32_t> references;
      for (const auto& [tokens, table] : held)
        for (const int32_t block : table) ++references[block];
      for (int32_t block = 0; block < pool.num_blocks(); ++block)
        ASSERT_EQ(pool.num_references(block), references.contains(block) ? references[block] : 0);
      ASSERT_EQ(pool.num_available(), pool.num_blocks() - static_cast<int64_t>(references.size()));
    }
  }
}

}  // namespace
}  // namespace lane
