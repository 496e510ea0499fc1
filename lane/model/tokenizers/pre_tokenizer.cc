#include "lane/model/tokenizers/pre_tokenizer.h"

#include <algorithm>

#include "lane/model/tokenizers/component.h"
#include "lane/model/tokenizers/unicode.h"

namespace lane::tokenizers {
namespace {

enum class Behavior : uint8_t { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior parse_behavior(const std::string& name, const std::string& where) {
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  throw Error(ErrorCode::kUnsupported, where + ": the behavior \"" + name + "\" is not supported");
}

// Turns the spans of a search into the pieces to keep. A match is a delimiter: one of several in a row joins its
// neighbour only if it is the one next to it.
void join_delimiters(std::vector<Span>& spans, Behavior behavior) {
  if (behavior == Behavior::kIsolated) return;
  if (behavior == Behavior::kRemoved) {
    std::erase_if(spans, [](const Span& span) { return span.matches; });
    return;
  }
  if (behavior == Behavior::kMergedWithNext) std::reverse(spans.begin(), spans.end());
  size_t num_kept = 0;
  bool after_match = false;
  for (const Span span : spans) {
    const bool joins = behavior == Behavior::kContiguous ? span.matches == after_match : span.matches && !after_match;
    if (joins && num_kept > 0) {
      Span& last = spans[num_kept - 1];
      last = {std::min(last.begin, span.begin), std::max(last.end, span.end), false};
    } else {
      spans[num_kept++] = span;
    }
    after_match = span.matches;
  }
  spans.resize(num_kept);
  if (behavior == Behavior::kMergedWithNext) std::reverse(spans.begin(), spans.end());
}

// Cuts each piece at the spans that find(text, spans) reports.
template <class Find>
void split(Pieces& pieces, Behavior behavior, Find&& find) {
  std::vector<Pieces::Piece> list;
  list.reserve(pieces.list.size() + pieces.bytes.size() / 4);
  std::vector<Span> spans;
  for (const auto& piece : pieces.list) {
    spans.clear();
    find(pieces.text(piece), spans);
    join_delimiters(spans, behavior);
    for (const auto& span : spans) {
      if (span.begin == span.end) continue;
      const size_t at_origin = piece.num_at_origin > span.begin ? piece.num_at_origin - span.begin : 0;
      list.push_back({piece.begin + span.begin, piece.begin + span.end, std::min(at_origin, span.end - span.begin)});
    }
  }
  pieces.list = std::move(list);
}

// Rewrites each piece by write(piece, text, out), which appends it and returns its num_at_origin.
template <class Write>
void rewrite(Pieces& pieces, Write&& write) {
  std::string out;
  out.reserve(pieces.bytes.size() + pieces.bytes.size() / 4);
  for (auto& piece : pieces.list) {
    const size_t begin = out.size();
    const size_t at_origin = write(piece, pieces.text(piece), out);
    piece = {begin, out.size(), at_origin};
  }
  pieces.bytes = std::move(out);
}

class Split : public PreTokenizer {
 public:
  Split(const Json& json, const std::string& where)
      : pattern_(json_field(json, "pattern", where), where),
        behavior_(parse_behavior(required_string(json, "behavior", where), where)),
        invert_(json_bool(json, "invert", false, where)) {}

  void apply(Pieces& pieces) const override {
    split(pieces, behavior_, [this](std::string_view text, std::vector<Span>& spans) {
      pattern_.find(text, spans);
      if (invert_)
        for (auto& span : spans) span.matches = !span.matches;
    });
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(const Json& json, const std::string& where)
      : add_prefix_space_(json_bool(json, "add_prefix_space", true, where)) {
    if (json_bool(json, "use_regex", true, where))
      words_ = std::make_unique<const Regex>(
          R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", where);
  }

  void apply(Pieces& pieces) const override {
    if (add_prefix_space_)
      rewrite(pieces, [](const Pieces::Piece& piece, std::string_view text, std::string& out) {
        const bool adds = text[0] != ' ';
        if (adds) out += ' ';
        out += text;
        return piece.num_at_origin + (adds && piece.num_at_origin > 0 ? 1 : 0);
      });
    if (words_)
      split(pieces, Behavior::kIsolated,
            [this](std::string_view text, std::vector<Span>& spans) { words_->find(text, spans); });
    rewrite(pieces, [](const Pieces::Piece& piece, std::string_view text, std::string& out) {
      const size_t begin = out.size();
      size_t at_origin = 0;
      for (size_t i = 0; i < text.size(); ++i) {
        out += character_of_byte(static_cast<unsigned char>(text[i]));
        if (i < piece.num_at_origin) at_origin = out.size() - begin;
      }
      return at_origin;
    });
  }

 private:
  bool add_prefix_space_;
  std::unique_ptr<const Regex> words_;
};

class Digits : public PreTokenizer {
 public:
  Digits(const Json& json, const std::string& where)
      : behavior_(json_bool(json, "individual_digits", false, where) ? Behavior::kIsolated : Behavior::kContiguous) {}

  void apply(Pieces& pieces) const override {
    split(pieces, behavior_, [](std::string_view text, std::vector<Span>& spans) {
      size_t done = 0;
      for (size_t i = 0; i < text.size();) {
        const size_t next = i + static_cast<size_t>(utf8_length(text[i]));
        if (is_numeric(read_utf8(&text[i]))) {
          if (done < i) spans.push_back({done, i, false});
          spans.push_back({i, next, true});
          done = next;
        }
        i = next;
      }
      if (done < text.size()) spans.push_back({done, text.size(), false});
    });
  }

 private:
  Behavior behavior_;
};

class Metaspace : public PreTokenizer {
 public:
  Metaspace(const Json& json, const std::string& where)
      : replacement_(required_character(json, "replacement", where)),
        scheme_(prepend_scheme(json, where)),
        split_(json_bool(json, "split", true, where)) {}

  void apply(Pieces& pieces) const override {
    rewrite(pieces, [this](const Pieces::Piece& piece, std::string_view text, std::string& out) {
      const size_t begin = out.size();
      size_t at_origin = 0;
      const bool has_prefix = text[0] == ' ' || text.starts_with(replacement_);
      const bool adds =
          scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && piece.num_at_origin > 0);
      if (adds && !has_prefix) out += replacement_;
      for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == ' ') {
          out += replacement_;
        } else {
          out += text[i];
        }
        if (i < piece.num_at_origin) at_origin = out.size() - begin;
      }
      return at_origin;
    });
    if (!split_) return;
    split(pieces, Behavior::kMergedWithNext, [this](std::string_view text, std::vector<Span>& spans) {
      size_t done = 0;
      for (size_t at; (at = text.find(replacement_, done)) != std::string_view::npos; done = at + replacement_.size()) {
        if (done < at) spans.push_back({done, at, false});
        spans.push_back({at, at + replacement_.size(), true});
      }
      if (done < text.size()) spans.push_back({done, text.size(), false});
    });
  }

 private:
  std::string replacement_;
  PrependScheme scheme_;
  bool split_;
};

void append(const Json& json, const std::string& where, PreTokenizers& out) {
  if (json.is_null()) return;
  const std::string type = component_type(json, where);
  if (type == "Sequence") {
    for_each_part(json, "pretokenizers", where,
                  [&](const Json& part, const std::string& place) { append(part, place, out); });
  } else if (type == "Split") {
    out.push_back(std::make_unique<Split>(json, where));
  } else if (type == "ByteLevel") {
    out.push_back(std::make_unique<ByteLevel>(json, where));
  } else if (type == "Digits") {
    out.push_back(std::make_unique<Digits>(json, where));
  } else if (type == "Metaspace") {
    out.push_back(std::make_unique<Metaspace>(json, where));
  } else {
    refuse_component(type, "Sequence, Split, ByteLevel, Digits and Metaspace", where);
  }
}

}  // namespace

PreTokenizers parse_pre_tokenizer(const Json& json, const std::string& where) {
  PreTokenizers pre_tokenizers;
  append(json, where, pre_tokenizers);
  return pre_tokenizers;
}

}  // namespace lane::tokenizers
