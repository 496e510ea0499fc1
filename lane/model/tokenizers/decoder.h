#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lane/model/tokenizers/pattern.h"

namespace lane::tokenizers {

// One step from tokens to text, as a state machine. A token comes as one or more chunks of whole UTF-8 characters, of
// which the last one `ends` it; what a stage gives to next_ has the same form. Each stage holds back what later tokens
// can still change, and no more, so decoding in one go and decoding as tokens come are the same computation.
class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  virtual void push(std::string_view chunk, bool ends) = 0;
  virtual void finish() { next_->finish(); }  // there are no more tokens
  void set_next(DecodeStage* next) { next_ = next; }

 protected:
  DecodeStage* next_ = nullptr;
};

class DecodePipeline {
 public:
  DecodePipeline(std::vector<std::unique_ptr<DecodeStage>> stages, bool joins_by_space);
  void push(std::string_view token) { stages_.front()->push(token, true); }
  void finish() { stages_.front()->finish(); }
  std::string take();  // the text that is certain, once

 private:
  std::unique_ptr<std::string> text_;
  std::vector<std::unique_ptr<DecodeStage>> stages_;
};

// tokenizer.json's `decoder`: what makes pipelines. It outlives them.
class Decoder {
 public:
  Decoder(const Json& json, const std::string& where);
  DecodePipeline start() const;

 private:
  struct Step {
    enum class Kind : uint8_t { kByteLevel, kByteFallback, kFuse, kReplace, kStrip, kMetaspace } kind;
    std::shared_ptr<const Pattern> pattern = nullptr;  // kReplace
    std::string content = {};            // what kReplace puts in, kStrip strips, kMetaspace turns to space
    size_t num_front = 0, num_back = 0;  // kStrip: at most so many
    bool drops_first = false;            // kMetaspace: the first token has none
  };
  void append(const Json& json, const std::string& where);

  std::vector<Step> steps_;
  bool joins_by_space_;
};

}  // namespace lane::tokenizers
