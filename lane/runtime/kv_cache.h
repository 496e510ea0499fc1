#pragma once
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "lane/attention/attention.h"
#include "lane/base/dtype.h"
#include "lane/device/tensor.h"

namespace lane {

// What one block of the cache holds on this rank: keys and values of block_tokens tokens in every layer.
struct KvLayout {
  int num_layers = 0;
  int num_kv_heads = 0;  // on this rank
  int head_dim = 0;
  int block_tokens = 16;
  DType dtype = DType::kBF16;
  int64_t block_bytes() const {
    return int64_t{2} * num_layers * block_tokens * num_kv_heads * head_dim * size_of(dtype);
  }
};

// The memory of the cache: for each layer keys and values [num_blocks, num_kv_heads, block_tokens, head_dim].
class KvCache {
 public:
  KvCache(const KvLayout& layout, int64_t num_blocks, Device device);
  std::span<const KvView> layers() const { return views_; }
  const KvLayout& layout() const { return layout_; }

 private:
  KvLayout layout_;
  Buffer memory_;
  std::vector<KvView> views_;
};

// Who holds which block. Pure bookkeeping, the same on every rank. A full block of prompt tokens is known by the hash
// chain of its tokens and all before it, so that prompts with a common beginning share blocks: find_prefix() takes
// references on them. A block that nobody refers to any more stays findable until it is needed for something else
// (least recently freed first).
class BlockPool {
 public:
  BlockPool(int64_t num_blocks, int block_tokens);

  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t num_available() const;  // free, or cached and referred to by nobody
  int block_tokens() const { return block_tokens_; }

  // Appends to `table` the cached blocks that hold the longest prefix of `tokens`, in full blocks and never all of
  // the tokens (the last one must be computed to give logits). Returns the number of tokens they hold.
  int64_t find_prefix(std::span<const int32_t> tokens, std::vector<int32_t>& table);
  // Appends `count` fresh blocks to `table`; false, and nothing changed, if there are not as many.
  bool allocate(int64_t count, std::vector<int32_t>& table);
  // Makes the full blocks of `table` findable, once their tokens are computed. `tokens` are those the table holds.
  void publish(std::span<const int32_t> tokens, std::span<const int32_t> table);
  // Gives up one reference on each block and clears the table.
  void release(std::vector<int32_t>& table);

 private:
  struct Block {
    int32_t num_references = 0;
    bool published = false;
    uint64_t hash = 0;               // of its tokens and all before
    std::vector<int32_t> tokens;     // verified on a hit: a hash collision must not mix prompts up
    int32_t previous = -1;           // block of the chain before, for the same reason
    int32_t older = -1, newer = -1;  // list of unreferenced blocks, least recently freed first
  };
  void list_remove(int32_t block);
  void list_append(int32_t block);

  int block_tokens_;
  std::vector<Block> blocks_;
  std::unordered_map<uint64_t, int32_t> by_hash_;
  int32_t oldest_ = -1, newest_ = -1;
  int64_t num_unreferenced_ = 0;
};

}  // namespace lane
