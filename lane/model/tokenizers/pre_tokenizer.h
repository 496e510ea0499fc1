#pragma once
#include <memory>
#include <string>
#include <vector>

#include "lane/model/tokenizers/normalizer.h"

namespace lane::tokenizers {

// A text cut into pieces; the pieces are in order and none is empty.
struct Pieces {
  struct Piece {
    size_t begin, end;
    size_t num_at_origin;  // as in Text
  };
  std::string bytes;
  std::vector<Piece> list;

  std::string_view text(const Piece& piece) const {
    return std::string_view(bytes).substr(piece.begin, piece.end - piece.begin);
  }
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Pieces& pieces) const = 0;
};
using PreTokenizers = std::vector<std::unique_ptr<const PreTokenizer>>;

// tokenizer.json's `pre_tokenizer`, sequences unrolled. The pieces that come out are the words of the model.
PreTokenizers parse_pre_tokenizer(const Json& json, const std::string& where);

}  // namespace lane::tokenizers
