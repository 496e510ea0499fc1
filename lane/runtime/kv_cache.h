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

// Who holds which block. Pure bookkeeping, the same on every rank. A full block of computed tokens is known by the hash
// chain of its tokens and all before it, so that prompts with a common beginning share blocks: find_prefix() takes
// references on them. A block that nobody refers to any more stays findable until it is needed for something else
// (least recently freed first). Every operation takes time in proportion to the blocks it is about.
class BlockPool {
 public:
  BlockPool(int64_t num_blocks, int block_tokens);

  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t num_available() const { return num_unreferenced_; }  // free, or cached and referred to by nobody
  int block_tokens() const { return block_tokens_; }
  int64_t blocks_for(int64_t num_tokens) const { return (num_tokens + block_tokens_ - 1) / block_tokens_; }

  // Appends to `table` the cached blocks that hold the longest prefix of `tokens`, in full blocks and never all of
  // the tokens (the last one must be computed to give logits). Returns the number of tokens they hold.
  int64_t find_prefix(std::span<const int32_t> tokens, std::vector<int32_t>& table);
  // Appends `count` fresh blocks to `table`; false, and nothing changed, if there are not as many.
  bool allocate(int64_t count, std::vector<int32_t>& table);
  // Makes the full blocks of `table` findable, once their tokens are computed. `tokens` are those the table holds; the
  // first `num_known` blocks went through publish() or came from find_prefix() before. Of two blocks with the same
  // content the first one published is found.
  void publish(std::span<const int32_t> tokens, std::span<const int32_t> table, int64_t num_known = 0);
  // Gives up one reference on each block and clears the table.
  void release(std::vector<int32_t>& table);

  int32_t num_references(int32_t block) const { return blocks_[static_cast<size_t>(block)].num_references; }
  bool is_published(int32_t block) const { return blocks_[static_cast<size_t>(block)].published; }

 private:
  // `content` names what a block holds, its tokens and all before them: a number given when the first block with this
  // content is published, and never again. It makes a hit certain where a hash makes it likely.
  struct Block {
    int32_t num_references = 0;
    bool published = false;
    uint64_t hash = 0;                     // of its tokens and all before
    int64_t content = 0;                   // of its own, or of the published block with the same content
    int64_t previous_content = 0;          // of the block before it in the chain; 0: it is the first
    std::vector<int32_t> tokens;           // if published
    int32_t older = kNone, newer = kNone;  // list of unreferenced blocks, the next to be used first
  };
  static constexpr int32_t kNone = -1;

  Block& at(int32_t block) { return blocks_[static_cast<size_t>(block)]; }
  void take(int32_t block);  // one more reference
  void unpublish(int32_t block);
  void list_remove(int32_t block);
  void list_append(int32_t block);
  void list_prepend(int32_t block);
  int32_t find(uint64_t hash, int64_t previous_content, std::span<const int32_t> tokens) const;

  int block_tokens_;
  std::vector<Block> blocks_;
  std::unordered_map<uint64_t, int32_t> by_hash_;
  int32_t oldest_ = kNone, newest_ = kNone;
  int64_t num_unreferenced_ = 0;
  int64_t num_contents_ = 0;
};

}  // namespace lane
