#include "lane/model/tokenizers/decoder.h"

#include <utility>

#include "lane/model/tokenizers/component.h"
#include "lane/model/tokenizers/normalizer.h"
#include "lane/model/tokenizers/unicode.h"

namespace lane::tokenizers {
namespace {

// For a stage that must see a token as a whole.
class WholeTokens : public DecodeStage {
 public:
  void push(std::string_view chunk, bool ends) final {
    if (ends && held_.empty()) return token(chunk);
    held_ += chunk;
    if (!ends) return;
    token(held_);
    held_.clear();
  }

 protected:
  virtual void token(std::string_view text) = 0;

 private:
  std::string held_;
};

// All tokens become one, of the bytes that their characters stand for; a token with another character stays as it is.
class ByteLevel : public WholeTokens {
 public:
  void token(std::string_view text) override {
    bytes_.clear();
    for (size_t i = 0; i < text.size(); i += static_cast<size_t>(utf8_length(text[i]))) {
      const int byte = byte_of_character(read_utf8(&text[i]));
      if (byte < 0) {
        bytes_ = text;
        break;
      }
      bytes_ += static_cast<char>(byte);
    }
    utf8_.push(bytes_, out_);
    give(false);
  }
  void finish() override {
    utf8_.finish(out_);
    give(true);
    next_->finish();
  }

 private:
  void give(bool ends) {
    if (ends || !out_.empty()) next_->push(out_, ends);
    out_.clear();
  }
  LossyUtf8 utf8_;
  std::string bytes_, out_;
};

// A run of byte tokens "<0x0A>" becomes one token if it is UTF-8, and one U+FFFD for each byte if not. So the run is
// held back until it ends or goes wrong.
class ByteFallback : public WholeTokens {
 public:
  void token(std::string_view text) override {
    const int byte = byte_of(text);
    if (byte < 0) {
      end_run();
      return next_->push(text, true);
    }
    if (!bad_) {
      run_ += static_cast<char>(byte);
      if (utf8_.push(static_cast<unsigned char>(byte)) != Utf8Reader::Step::kBad) return;
      bad_ = true;
      for (size_t i = 0; i < run_.size(); ++i) next_->push(kReplacement, true);
    } else {
      next_->push(kReplacement, true);
    }
  }
  void finish() override {
    end_run();
    next_->finish();
  }

 private:
  static int byte_of(std::string_view text) {
    if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
    const auto digit = [](char c) {
      return c >= '0' && c <= '9'   ? c - '0'
             : c >= 'a' && c <= 'f' ? c - 'a' + 10
             : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                    : -1;
    };
    const int high = text[3] == '+' ? 0 : digit(text[3]), low = digit(text[4]);  // Rust reads a plus sign
    return high < 0 || low < 0 ? -1 : 16 * high + low;
  }
  void end_run() {
    if (!bad_ && !run_.empty()) {
      if (utf8_.pending() == 0) {
        next_->push(run_, true);
      } else {
        for (size_t i = 0; i < run_.size(); ++i) next_->push(kReplacement, true);
      }
    }
    run_.clear();
    utf8_ = {};
    bad_ = false;
  }

  std::string run_;
  Utf8Reader utf8_;
  bool bad_ = false;
};

class Fuse : public DecodeStage {
 public:
  void push(std::string_view chunk, bool) override {
    if (!chunk.empty()) next_->push(chunk, false);
  }
  void finish() override {
    next_->push({}, true);
    next_->finish();
  }
};

class Replace : public WholeTokens {
 public:
  Replace(const Pattern& pattern, const std::string& content) : pattern_(pattern), content_(content) {}
  void token(std::string_view text) override {
    Text changed{std::string(text), 0};
    replace_matches(changed, pattern_, content_);
    next_->push(changed.bytes, true);
  }

 private:
  const Pattern& pattern_;
  const std::string& content_;
};

// Takes at most num_front and num_back of a character from the ends of each token. Of a token that is still coming, as
// many as could be its end are held back.
class Strip : public DecodeStage {
 public:
  Strip(const std::string& character, size_t num_front, size_t num_back)
      : character_(character), num_front_(num_front), num_back_(num_back) {}

  void push(std::string_view chunk, bool ends) override {
    out_.clear();
    for (size_t i = 0; i < chunk.size();) {
      const std::string_view c = chunk.substr(i, static_cast<size_t>(utf8_length(chunk[i])));
      i += c.size();
      if (c != character_) {
        in_front_ = false;
        for (; num_held_ > 0; --num_held_) out_ += character_;
        out_ += c;
      } else if (in_front_ && num_stripped_ < num_front_) {
        ++num_stripped_;
      } else if (num_held_ < num_back_) {
        ++num_held_;
      } else {
        out_ += character_;
      }
    }
    if (ends) {
      in_front_ = true;
      num_stripped_ = num_held_ = 0;
    }
    if (ends || !out_.empty()) next_->push(out_, ends);
  }

 private:
  const std::string& character_;
  size_t num_front_, num_back_, num_stripped_ = 0, num_held_ = 0;
  bool in_front_ = true;
  std::string out_;
};

class Metaspace : public WholeTokens {
 public:
  Metaspace(const std::string& character, bool drops_first) : character_(character), drops_(drops_first) {}
  void token(std::string_view text) override {
    out_.clear();
    size_t done = 0;
    for (size_t at; (at = text.find(character_, done)) != std::string_view::npos; done = at + character_.size()) {
      out_ += text.substr(done, at - done);
      if (!drops_) out_ += ' ';
    }
    out_ += text.substr(done);
    drops_ = false;
    next_->push(out_, true);
  }

 private:
  const std::string& character_;
  bool drops_;
  std::string out_;
};

class Collect : public DecodeStage {
 public:
  Collect(std::string& text, std::string_view separator) : text_(text), separator_(separator) {}
  void push(std::string_view chunk, bool ends) override {
    if (begins_ && !first_) text_ += separator_;
    text_ += chunk;
    begins_ = ends;
    first_ = false;
  }
  void finish() override {}

 private:
  std::string& text_;
  std::string_view separator_;
  bool begins_ = true, first_ = true;
};

size_t json_count(const Json& json, const char* field, const std::string& where) {
  const int64_t count = json_int(json, field, 0, where);
  if (count < 0) throw Error(ErrorCode::kCorruptData, where + ": \"" + field + "\" is negative");
  return static_cast<size_t>(count);
}

}  // namespace

DecodePipeline::DecodePipeline(std::vector<std::unique_ptr<DecodeStage>> stages, bool joins_by_space)
    : text_(std::make_unique<std::string>()), stages_(std::move(stages)) {
  stages_.push_back(std::make_unique<Collect>(*text_, joins_by_space ? " " : ""));
  for (size_t i = 0; i + 1 < stages_.size(); ++i) stages_[i]->set_next(stages_[i + 1].get());
}

std::string DecodePipeline::take() { return std::exchange(*text_, {}); }

Decoder::Decoder(const Json& json, const std::string& where) : joins_by_space_(json.is_null()) {
  if (!json.is_null()) append(json, where);
}

void Decoder::append(const Json& json, const std::string& where) {
  const std::string type = component_type(json, where);
  if (type == "Sequence") {
    for_each_part(json, "decoders", where, [this](const Json& part, const std::string& place) { append(part, place); });
  } else if (type == "ByteLevel") {
    steps_.push_back({.kind = Step::Kind::kByteLevel});
  } else if (type == "ByteFallback") {
    steps_.push_back({.kind = Step::Kind::kByteFallback});
  } else if (type == "Fuse") {
    steps_.push_back({.kind = Step::Kind::kFuse});
  } else if (type == "Replace") {
    steps_.push_back({.kind = Step::Kind::kReplace,
                      .pattern = std::make_shared<const Pattern>(json_field(json, "pattern", where), where),
                      .content = required_string(json, "content", where)});
  } else if (type == "Strip") {
    steps_.push_back({.kind = Step::Kind::kStrip,
                      .content = required_character(json, "content", where),
                      .num_front = json_count(json, "start", where),
                      .num_back = json_count(json, "stop", where)});
  } else if (type == "Metaspace") {
    steps_.push_back({.kind = Step::Kind::kMetaspace,
                      .content = required_character(json, "replacement", where),
                      .drops_first = prepend_scheme(json, where) != PrependScheme::kNever});
  } else {
    refuse_component(type, "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip and Metaspace", where);
  }
}

DecodePipeline Decoder::start() const {
  std::vector<std::unique_ptr<DecodeStage>> stages;
  for (const auto& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kByteLevel:
        stages.push_back(std::make_unique<ByteLevel>());
        break;
      case Step::Kind::kByteFallback:
        stages.push_back(std::make_unique<ByteFallback>());
        break;
      case Step::Kind::kFuse:
        stages.push_back(std::make_unique<Fuse>());
        break;
      case Step::Kind::kReplace:
        stages.push_back(std::make_unique<Replace>(*step.pattern, step.content));
        break;
      case Step::Kind::kStrip:
        stages.push_back(std::make_unique<Strip>(step.content, step.num_front, step.num_back));
        break;
      case Step::Kind::kMetaspace:
        stages.push_back(std::make_unique<Metaspace>(step.content, step.drops_first));
        break;
    }
  }
  return DecodePipeline(std::move(stages), joins_by_space_);
}

}  // namespace lane::tokenizers
