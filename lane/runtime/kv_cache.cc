#include "lane/runtime/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "lane/base/random.h"

namespace lane {

KvCache::KvCache(const KvLayout& layout, int64_t num_blocks, Device device) : layout_(layout) {
  ensure(num_blocks > 0 && layout.block_bytes() > 0, "a cache has blocks and they hold something");
  memory_ = Buffer::sparse(device, num_blocks * layout.block_bytes());
  auto* next = static_cast<char*>(memory_.data());
  const auto take = [&] {
    const TensorView view{
        next, layout_.dtype, {num_blocks, layout_.num_kv_heads, layout_.block_tokens, layout_.head_dim}, device};
    next += view.bytes();
    return view;
  };
  for (int layer = 0; layer < layout_.num_layers; ++layer) {
    const TensorView keys = take();
    views_.push_back({keys, take()});
  }
}

namespace {

uint64_t chain_hash(uint64_t before, std::span<const int32_t> tokens) {
  for (const int32_t token : tokens) before = mix64(before ^ static_cast<uint32_t>(token));
  return before;
}

}  // namespace

BlockPool::BlockPool(int64_t num_blocks, int block_tokens) : block_tokens_(block_tokens) {
  if (num_blocks < 1 || num_blocks > std::numeric_limits<int32_t>::max() || block_tokens < 1)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a KV cache of {} blocks of {} tokens: both must be at least 1, and blocks below 2^31",
                            num_blocks, block_tokens));
  blocks_.resize(static_cast<size_t>(num_blocks));
  by_hash_.reserve(static_cast<size_t>(num_blocks));
  for (int32_t block = 0; block < num_blocks; ++block) list_append(block);
}

int32_t BlockPool::find(uint64_t hash, int64_t previous_content, std::span<const int32_t> tokens) const {
  const auto hit = by_hash_.find(hash);
  if (hit == by_hash_.end()) return kNone;
  const Block& block = blocks_[static_cast<size_t>(hit->second)];
  const bool same = block.previous_content == previous_content && std::ranges::equal(block.tokens, tokens);
  return same ? hit->second : kNone;
}

int64_t BlockPool::find_prefix(std::span<const int32_t> tokens, std::vector<int32_t>& table) {
  int64_t found = 0, content = 0;
  uint64_t hash = 0;
  while (found + block_tokens_ < static_cast<int64_t>(tokens.size())) {
    const auto own = tokens.subspan(static_cast<size_t>(found), static_cast<size_t>(block_tokens_));
    hash = chain_hash(hash, own);
    const int32_t block = find(hash, content, own);
    if (block == kNone) break;
    take(block);
    table.push_back(block);
    content = at(block).content;
    found += block_tokens_;
  }
  return found;
}

bool BlockPool::allocate(int64_t count, std::vector<int32_t>& table) {
  if (count > num_unreferenced_) return false;
  for (; count > 0; --count) {
    const int32_t block = oldest_;
    unpublish(block);
    take(block);
    table.push_back(block);
  }
  return true;
}

void BlockPool::publish(std::span<const int32_t> tokens, std::span<const int32_t> table, int64_t num_known) {
  const int64_t num_full = static_cast<int64_t>(tokens.size()) / block_tokens_;
  ensure(num_full <= static_cast<int64_t>(table.size()), "a block table holds its tokens");
  for (int64_t i = num_known; i < num_full; ++i) {
    const Block* before = i > 0 ? &at(table[static_cast<size_t>(i - 1)]) : nullptr;
    const auto own = tokens.subspan(static_cast<size_t>(i * block_tokens_), static_cast<size_t>(block_tokens_));
    const int32_t name = table[static_cast<size_t>(i)];
    Block& block = at(name);
    ensure(block.num_references > 0 && !block.published, "a block is published once, by its holder");
    block.hash = chain_hash(before != nullptr ? before->hash : 0, own);
    block.previous_content = before != nullptr ? before->content : 0;
    if (const int32_t same = find(block.hash, block.previous_content, own); same != kNone) {
      block.content = at(same).content;
      continue;
    }
    // Whoever has the hash cannot be reached any more, since what came before it is gone; or it is a collision.
    if (const auto other = by_hash_.find(block.hash); other != by_hash_.end()) unpublish(other->second);
    block.content = ++num_contents_;
    block.tokens.assign(own.begin(), own.end());
    block.published = true;
    by_hash_[block.hash] = name;
  }
}

void BlockPool::release(std::vector<int32_t>& table) {
  // From the end: of a chain, the part that is useful by itself stays longest.
  for (; !table.empty(); table.pop_back()) {
    const int32_t block = table.back();
    ensure(at(block).num_references > 0, "a block is released by a holder");
    if (--at(block).num_references > 0) continue;
    if (at(block).published)
      list_append(block);
    else
      list_prepend(block);
  }
}

void BlockPool::take(int32_t block) {
  if (at(block).num_references++ == 0) list_remove(block);
}

void BlockPool::unpublish(int32_t block) {
  if (!at(block).published) return;
  at(block).published = false;
  by_hash_.erase(at(block).hash);
}

void BlockPool::list_remove(int32_t block) {
  const auto [older, newer] = std::pair{at(block).older, at(block).newer};
  (older != kNone ? at(older).newer : oldest_) = newer;
  (newer != kNone ? at(newer).older : newest_) = older;
  --num_unreferenced_;
}

void BlockPool::list_append(int32_t block) {
  at(block).older = newest_, at(block).newer = kNone;
  (newest_ != kNone ? at(newest_).newer : oldest_) = block;
  newest_ = block;
  ++num_unreferenced_;
}

void BlockPool::list_prepend(int32_t block) {
  at(block).older = kNone, at(block).newer = oldest_;
  (oldest_ != kNone ? at(oldest_).older : newest_) = block;
  oldest_ = block;
  ++num_unreferenced_;
}

}  // namespace lane
