#pragma once
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/json.h"
#include "lane/model/tokenizers/vocabulary.h"

namespace lane::tokenizers {

// Byte pair encoding (Sennrich et al., Neural Machine Translation of Rare Words with Subword Units, 2016): a word
// starts as its characters; of all neighbours that a merge rule joins, those of the first rule are joined, the leftmost
// first, until no rule applies.
class Bpe {
 public:
  Bpe(const Json& model, const std::string& where);

  struct Merge {
    uint32_t rank, id;
  };
  struct Symbol {
    int32_t id, previous, next;  // places of the neighbours; -1: none
  };
  struct Waiting {
    uint64_t order;  // rank, then place
    uint32_t id;
  };
  struct Scratch {  // memory of one encode() call
    std::vector<int32_t> ids;
    std::vector<Merge> merges;
    std::vector<Symbol> symbols;
    std::vector<Waiting> heap;
  };

  // Appends the ids of `word`, which is valid UTF-8. O(n log n) in its length.
  void encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  void parse_vocabulary(const Json& vocab);
  void parse_merges(const Json& merges);
  void spell(std::string_view word, std::vector<int32_t>& out) const;
  const Merge* merge_of(int32_t left, int32_t right) const {
    return merges_.find(static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right));
  }
  void merge_few(Scratch& scratch) const;
  void merge_many(Scratch& scratch) const;

  std::string where_;
  Vocabulary vocabulary_;
  KeyMap<Merge> merges_;  // by the ids of the two parts
  bool fuse_unk_, byte_fallback_, ignore_merges_;
  std::string unk_token_;  // empty: unknown characters vanish
  int32_t unk_id_ = -1;
  std::array<int32_t, 256> byte_ids_{};  // of "<0x00>" ...; -1 where the vocabulary has none
};

}  // namespace lane::tokenizers
