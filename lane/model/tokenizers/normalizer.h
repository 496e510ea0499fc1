#pragma once
#include <memory>
#include <string>
#include <vector>

#include "lane/model/tokenizers/pattern.h"

namespace lane::tokenizers {

// A text on its way. `num_at_origin` of its bytes stem from the first character of the text that encode() was given;
// it is 0 for a later part. Only Metaspace's prepend_scheme "first" asks.
struct Text {
  std::string bytes;
  size_t num_at_origin = 0;
};

void prepend(Text& text, const std::string& content);  // leaves an empty text empty
void replace_matches(Text& text, const Pattern& pattern, const std::string& content);

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(Text& text) const = 0;
};
using Normalizers = std::vector<std::unique_ptr<const Normalizer>>;

// tokenizer.json's `normalizer`, sequences unrolled.
Normalizers parse_normalizer(const Json& json, const std::string& where);

}  // namespace lane::tokenizers
