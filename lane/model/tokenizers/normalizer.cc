#include "lane/model/tokenizers/normalizer.h"

#include "lane/model/tokenizers/component.h"
#include "lane/model/tokenizers/unicode.h"

namespace lane::tokenizers {

void prepend(Text& text, const std::string& content) {
  if (text.bytes.empty()) return;
  text.bytes.insert(0, content);
  if (text.num_at_origin > 0) text.num_at_origin += content.size();  // it shares the place of what it precedes
}

// A replacement has the place of the last byte that it replaces.
void replace_matches(Text& text, const Pattern& pattern, const std::string& content) {
  std::vector<Span> spans;
  pattern.find(text.bytes, spans);
  if (spans.size() <= 1 && (spans.empty() || !spans[0].matches)) return;
  Text out;
  out.bytes.reserve(text.bytes.size());
  for (const auto& span : spans) {
    const std::string_view old = std::string_view(text.bytes).substr(span.begin, span.end - span.begin);
    if (span.matches) {
      out.bytes += content;
      if (span.end <= text.num_at_origin && text.num_at_origin > 0) out.num_at_origin = out.bytes.size();
    } else {
      out.bytes += old;
      if (span.begin < text.num_at_origin)
        out.num_at_origin = out.bytes.size() - (span.end - std::min(span.end, text.num_at_origin));
    }
  }
  text = std::move(out);
}

namespace {

// For what maps characters to characters: the first stays at the origin.
void replace_all(Text& text, std::string bytes) {
  text.bytes = std::move(bytes);
  if (text.num_at_origin > 0 && !text.bytes.empty())
    text.num_at_origin = static_cast<size_t>(utf8_length(text.bytes[0]));
}

class Normal : public Normalizer {
 public:
  explicit Normal(NormalForm form) : form_(form) {}
  void apply(Text& text) const override { replace_all(text, normalize(text.bytes, form_)); }

 private:
  NormalForm form_;
};

class Lowercase : public Normalizer {
 public:
  void apply(Text& text) const override { replace_all(text, lowercase(text.bytes)); }
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string content) : content_(std::move(content)) {}
  void apply(Text& text) const override { prepend(text, content_); }

 private:
  std::string content_;
};

class Replace : public Normalizer {
 public:
  Replace(const Json& json, const std::string& where)
      : pattern_(json_field(json, "pattern", where), where), content_(required_string(json, "content", where)) {}
  void apply(Text& text) const override { replace_matches(text, pattern_, content_); }

 private:
  Pattern pattern_;
  std::string content_;
};

void append(const Json& json, const std::string& where, Normalizers& out) {
  if (json.is_null()) return;
  const std::string type = component_type(json, where);
  if (type == "Sequence") {
    for_each_part(json, "normalizers", where,
                  [&](const Json& part, const std::string& place) { append(part, place, out); });
  } else if (type == "NFC") {
    out.push_back(std::make_unique<Normal>(NormalForm::kComposed));
  } else if (type == "NFD") {
    out.push_back(std::make_unique<Normal>(NormalForm::kDecomposed));
  } else if (type == "Lowercase") {
    out.push_back(std::make_unique<Lowercase>());
  } else if (type == "Prepend") {
    out.push_back(std::make_unique<Prepend>(required_string(json, "prepend", where)));
  } else if (type == "Replace") {
    out.push_back(std::make_unique<Replace>(json, where));
  } else {
    refuse_component(type, "Sequence, NFC, NFD, Lowercase, Prepend and Replace", where);
  }
}

}  // namespace

Normalizers parse_normalizer(const Json& json, const std::string& where) {
  Normalizers normalizers;
  append(json, where, normalizers);
  return normalizers;
}

}  // namespace lane::tokenizers
