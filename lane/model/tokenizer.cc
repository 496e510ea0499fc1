#include "lane/model/tokenizer.h"

#include <fmt/format.h>

#include <map>
#include <unordered_set>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/log.h"
#include "lane/model/tokenizers/added_tokens.h"
#include "lane/model/tokenizers/bpe.h"
#include "lane/model/tokenizers/component.h"
#include "lane/model/tokenizers/decoder.h"
#include "lane/model/tokenizers/pre_tokenizer.h"
#include "lane/model/tokenizers/unicode.h"

namespace lane {

using namespace tokenizers;

namespace {

// What the post-processor puts around a text: ids before, how often the text itself comes, and ids after.
struct Template {
  std::vector<std::vector<int32_t>> between = {{}, {}};  // [text][between]...[text]
  bool is_set = false;

  void parse(const Json& json, const std::string& where, const Vocabulary& known, const Vocabulary& added) {
    if (json.is_null()) return;
    const std::string type = component_type(json, where);
    if (type == "ByteLevel") return;  // it is about offsets, which Lane does not report
    if (type == "Sequence")
      return for_each_part(json, "processors", where,
                           [&](const Json& part, const std::string& place) { parse(part, place, known, added); });
    if (type != "TemplateProcessing") refuse_component(type, "Sequence, ByteLevel and TemplateProcessing", where);
    if (is_set) throw Error(ErrorCode::kUnsupported, where + ": a second \"TemplateProcessing\" is not supported");
    is_set = true;
    between = {{}};
    const Json& specials = json_field(json, "special_tokens", where);
    for_each_part(json, "single", where, [&](const Json& piece, const std::string& place) {
      const bool is_one = piece.is_object() && piece.size() == 1 && piece.begin()->is_object();
      const std::string kind = is_one ? piece.begin().key() : "";
      if (kind == "Sequence" && required_string(*piece.begin(), "id", place) == "A") {
        between.emplace_back();
      } else if (kind == "SpecialToken") {
        const std::string name = required_string(*piece.begin(), "id", place);
        if (!specials.is_object() || !specials.contains(name) || !specials[name].is_object())
          throw Error(ErrorCode::kCorruptData, fmt::format("{}: \"special_tokens\" lacks \"{}\"", where, name));
        for_each_part(specials[name], "ids", where, [&](const Json& id, const std::string&) {
          if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX ||
              !(known.has(id.get<int32_t>()) || added.has(id.get<int32_t>())))
            throw Error(ErrorCode::kCorruptData, fmt::format("{}: \"{}\" has an id that no token has", where, name));
          between.back().push_back(id.get<int32_t>());
        });
      } else {
        throw Error(ErrorCode::kCorruptData, place + ": neither a special token nor the sequence \"A\"");
      }
    });
  }
};

}  // namespace

struct Tokenizer::Impl {
  struct Added {
    AddedToken token;
    std::string form;  // as the normalizer leaves it: what is looked for in texts, and what is decoded
    bool is_skipped;   // by decode(), if it skips special tokens
  };

  Impl(const Json& json, const std::string& where)
      : model(json_field(json, "model", where), where + ": model"),
        normalizers(parse_normalizer(json.value("normalizer", Json()), where + ": normalizer")),
        pre_tokenizers(parse_pre_tokenizer(json.value("pre_tokenizer", Json()), where + ": pre_tokenizer")),
        decoder(json.value("decoder", Json()), where + ": decoder") {
    if (json.contains("added_tokens") && !json["added_tokens"].is_null())
      parse_added_tokens(json, where + ": added_tokens");
    around.parse(json.value("post_processor", Json()), where + ": post_processor", model.vocabulary(), added_ids);
  }

  // As Hugging Face does it: a token of the model keeps the model's id, others are numbered on from the number of the
  // model's tokens. The ids in the list only confirm that.
  void parse_added_tokens(const Json& json, const std::string& where) {
    std::map<int32_t, AddedToken> by_id;
    std::unordered_set<std::string> specials;
    auto next_id = static_cast<int32_t>(model.vocabulary().size());
    int num_renumbered = 0;
    for_each_part(json, "added_tokens", where, [&](const Json& entry, const std::string& place) {
      AddedToken token{.content = required_string(entry, "content", place),
                       .single_word = json_bool(entry, "single_word", false, place),
                       .lstrip = json_bool(entry, "lstrip", false, place),
                       .rstrip = json_bool(entry, "rstrip", false, place),
                       .special = json_bool(entry, "special", false, place)};
      token.normalized = json_bool(entry, "normalized", !token.special, place);
      if (token.content.empty()) return;
      token.id = find(token.content);
      if (token.id < 0) {
        token.id = next_id++;
        added_ids.add(token.content, token.id);
      } else if (added_ids.find(token.content) < 0) {
        added_ids.add(token.content, token.id);
      }
      if (json_int(entry, "id", -1, place) != token.id) ++num_renumbered;
      if (token.special) specials.insert(token.content);
      by_id[token.id] = std::move(token);
    });
    if (num_renumbered > 0)
      log(LogLevel::kWarn,
          fmt::format("{}: {} tokens have another id than their place in the vocabulary; the place counts", where,
                      num_renumbered));
    added_index.assign(by_id.empty() ? 0 : static_cast<size_t>(by_id.rbegin()->first) + 1, -1);
    for (auto& [id, token] : by_id) {
      Text form{token.content, 0};
      if (token.normalized)
        for (const auto& normalizer : normalizers) normalizer->apply(form);
      (token.normalized ? normalized_finder : raw_finder).add(form.bytes, token, where);
      const bool is_skipped = specials.contains(form.bytes);
      added_index[static_cast<size_t>(id)] = static_cast<int32_t>(added.size());
      added.push_back({std::move(token), std::move(form.bytes), is_skipped});
    }
  }

  int32_t find(std::string_view token) const {
    const int32_t id = added_ids.find(token);
    return id >= 0 ? id : model.vocabulary().find(token);
  }
  const Added* added_token(int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) >= added_index.size()) return nullptr;
    const int32_t index = added_index[static_cast<size_t>(id)];
    return index < 0 ? nullptr : &added[static_cast<size_t>(index)];
  }

  // `bytes` holds no added token; `num_at_origin` as in Text.
  void encode_words(std::string bytes, size_t num_at_origin, Bpe::Scratch& scratch, std::vector<int32_t>& out) const {
    Pieces pieces{std::move(bytes), {}};
    pieces.list.push_back({0, pieces.bytes.size(), std::min(num_at_origin, pieces.bytes.size())});
    for (const auto& pre_tokenizer : pre_tokenizers) pre_tokenizer->apply(pieces);
    for (const auto& piece : pieces.list) model.encode(pieces.text(piece), scratch, out);
  }

  std::vector<int32_t> encode(std::string_view text) const {
    std::vector<int32_t> out;
    out.reserve(text.size() / 3 + 8);
    Bpe::Scratch scratch;
    std::vector<Segment> segments, inner;
    raw_finder.find(text, segments);
    for (const auto& segment : segments) {
      if (segment.id >= 0) {
        out.push_back(segment.id);
        continue;
      }
      Text part{std::string(text.substr(segment.begin, segment.end - segment.begin)), 0};
      if (segment.begin == 0) part.num_at_origin = static_cast<size_t>(utf8_length(text[0]));
      for (const auto& normalizer : normalizers) normalizer->apply(part);
      inner.clear();
      normalized_finder.find(part.bytes, inner);
      for (const auto& [begin, end, id] : inner) {
        if (id >= 0) {
          out.push_back(id);
        } else if (inner.size() == 1) {
          encode_words(std::move(part.bytes), part.num_at_origin, scratch, out);
        } else {
          encode_words(part.bytes.substr(begin, end - begin),
                       part.num_at_origin > begin ? part.num_at_origin - begin : 0, scratch, out);
        }
      }
    }
    return out;
  }

  void decode(int32_t id, bool skip_special, DecodePipeline& pipeline) const {
    if (const Added* token = added_token(id)) {
      if (!skip_special || !token->is_skipped) pipeline.push(token->form);
    } else if (model.vocabulary().has(id)) {
      pipeline.push(model.vocabulary().token(id));
    }
  }

  Bpe model;
  Normalizers normalizers;
  PreTokenizers pre_tokenizers;
  Decoder decoder;
  TokenFinder raw_finder, normalized_finder;
  std::vector<Added> added;
  std::vector<int32_t> added_index;  // [id] place in `added`; -1: none
  Vocabulary added_ids;
  Template around;
};

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::parse(std::string_view text, const std::string& where) {
  const Json json = parse_json(text, where);
  if (const std::string version = json_string(json, "version", "1.0", where); version != "1.0")
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: \"version\" is \"{}\"; supported is \"1.0\"", where, version));
  return Tokenizer(std::make_unique<const Impl>(json, where));
}

Tokenizer Tokenizer::load(const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  return parse(read_file(path), path);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (text.size() > INT32_MAX)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("a text of {} bytes is too long to encode", text.size()));
  std::string repaired;
  if (!is_valid_utf8(text)) {
    LossyUtf8 utf8;
    utf8.push(text, repaired);
    utf8.finish(repaired);
    text = repaired;
  }
  const std::vector<int32_t> ids = impl_->encode(text);
  const auto& between = impl_->around.between;
  std::vector<int32_t> out;
  out.reserve(ids.size() + 8);
  for (size_t i = 0; i < between.size(); ++i) {
    if (i > 0) out.insert(out.end(), ids.begin(), ids.end());
    if (add_special_tokens) out.insert(out.end(), between[i].begin(), between[i].end());
  }
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  DecodePipeline pipeline = impl_->decoder.start();
  for (const int32_t id : ids) impl_->decode(id, skip_special_tokens, pipeline);
  pipeline.finish();
  return pipeline.take();
}

int64_t Tokenizer::vocab_size() const {
  return std::max(impl_->model.vocabulary().end_id(), static_cast<int64_t>(impl_->added_index.size()));
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const int32_t id = impl_->find(token);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::string Tokenizer::token(int32_t id) const {
  const Impl::Added* added = impl_->added_token(id);
  return added ? added->token.content : std::string(impl_->model.vocabulary().token(id));
}

bool Tokenizer::is_special(int32_t id) const {
  const Impl::Added* added = impl_->added_token(id);
  return added && added->token.special;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer.impl_.get()),
      skip_special_(skip_special_tokens),
      pipeline_(std::make_unique<DecodePipeline>(tokenizer_->decoder.start())) {}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(int32_t id) {
  tokenizer_->decode(id, skip_special_, *pipeline_);
  return pipeline_->take();
}

std::string StreamDecoder::finish() {
  pipeline_->finish();
  return pipeline_->take();
}

}  // namespace lane
