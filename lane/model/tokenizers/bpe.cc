#include "lane/model/tokenizers/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "lane/model/tokenizers/component.h"
#include "lane/model/tokenizers/unicode.h"

namespace lane::tokenizers {
namespace {

constexpr size_t kFewSymbols = 24;  // up to here a look at all pairs is faster than a heap
constexpr Bpe::Merge kNoMerge{std::numeric_limits<uint32_t>::max(), 0};

[[noreturn]] void corrupt(const std::string& message) { throw Error(ErrorCode::kCorruptData, message); }

// For an option that Lane supports in its off state alone.
void refuse_unless_off(const Json& model, const char* field, const std::string& where) {
  const auto at = model.find(field);
  if (at == model.end() || at->is_null() || (at->is_string() && at->get_ref<const std::string&>().empty()) ||
      (at->is_number() && at->get<double>() == 0))
    return;
  throw Error(ErrorCode::kUnsupported, where + ": \"" + field + "\" is not supported");
}

}  // namespace

Bpe::Bpe(const Json& model, const std::string& where) : where_(where) {
  const std::string type = json_string(model, "type", "BPE", where);  // the oldest files do not say
  if (type != "BPE") refuse_component(type, "BPE", where);
  for (const char* field : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"})
    refuse_unless_off(model, field, where);
  fuse_unk_ = json_bool(model, "fuse_unk", false, where);
  byte_fallback_ = json_bool(model, "byte_fallback", false, where);
  ignore_merges_ = json_bool(model, "ignore_merges", false, where);
  unk_token_ = json_string(model, "unk_token", "", where);
  parse_vocabulary(json_field(model, "vocab", where));
  parse_merges(json_field(model, "merges", where));
  unk_id_ = vocabulary_.find(unk_token_);
  for (size_t byte = 0; byte < 256; ++byte) byte_ids_[byte] = vocabulary_.find(fmt::format("<0x{:02X}>", byte));
}

void Bpe::parse_vocabulary(const Json& vocab) {
  if (!vocab.is_object()) corrupt(where_ + ": \"vocab\" is not an object");
  // Ids index tables, so they may not be far more than there are tokens.
  const uint64_t end_id = 16 * vocab.size() + (1 << 16);
  vocabulary_.reserve(vocab.size());
  for (auto token = vocab.begin(); token != vocab.end(); ++token) {
    const bool is_id = token->is_number_unsigned();
    if (!is_id || token->get<uint64_t>() >= end_id)
      corrupt(fmt::format("{}: \"vocab\": the id of \"{}\" is not a whole number {}", where_, token.key(),
                          is_id ? fmt::format("below {}, far above the number of tokens", end_id) : "from 0"));
    vocabulary_.add(token.key(), static_cast<int32_t>(token->get<uint64_t>()));
  }
}

void Bpe::parse_merges(const Json& merges) {
  if (!merges.is_array()) corrupt(where_ + ": \"merges\" is not a list");
  merges_.reserve(merges.size());
  std::string joined;
  uint32_t rank = 0;
  for (size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    std::string_view left, right;
    if (merge.is_string()) {
      const std::string_view line = merge.get_ref<const std::string&>();
      if (line.starts_with("#version")) continue;
      const size_t space = line.find(' ');
      if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos)
        corrupt(fmt::format("{}: \"merges\"[{}]: \"{}\" is not two tokens with a space between them", where_, i, line));
      left = line.substr(0, space), right = line.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get_ref<const std::string&>(), right = merge[1].get_ref<const std::string&>();
    } else {
      corrupt(fmt::format("{}: \"merges\"[{}] is neither \"a b\" nor [\"a\", \"b\"]", where_, i));
    }
    joined.assign(left).append(right);
    const int32_t left_id = vocabulary_.find(left), right_id = vocabulary_.find(right), id = vocabulary_.find(joined);
    if (left_id < 0 || right_id < 0 || id < 0)
      corrupt(fmt::format("{}: \"merges\"[{}]: \"{}\" is not in the vocabulary", where_, i,
                          left_id < 0    ? left
                          : right_id < 0 ? right
                                         : std::string_view(joined)));
    merges_[static_cast<uint64_t>(left_id) << 32 | static_cast<uint32_t>(right_id)] = {rank++,
                                                                                       static_cast<uint32_t>(id)};
  }
}

// The ids of the characters. One that the vocabulary lacks becomes its bytes if all of them are tokens, else unk; an
// unk waits for the next character of the vocabulary, so it comes after bytes that follow it.
void Bpe::spell(std::string_view word, std::vector<int32_t>& out) const {
  bool unk_waits = false;
  for (size_t i = 0; i < word.size();) {
    const std::string_view character = word.substr(i, static_cast<size_t>(utf8_length(word[i])));
    i += character.size();
    const int32_t id = vocabulary_.find_character(character);
    if (id >= 0) {
      if (unk_waits) out.push_back(unk_id_);
      unk_waits = false;
      out.push_back(id);
      continue;
    }
    const auto id_of_byte = [this](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (byte_fallback_ && std::all_of(character.begin(), character.end(), [&](char b) { return id_of_byte(b) >= 0; })) {
      for (const char byte : character) out.push_back(id_of_byte(byte));
    } else if (!unk_token_.empty()) {
      if (unk_id_ < 0)
        throw Error(ErrorCode::kCorruptData,
                    fmt::format("{}: \"{}\" needs the unk_token \"{}\", which is not in the vocabulary", where_,
                                character, unk_token_));
      if (unk_waits && !fuse_unk_) out.push_back(unk_id_);
      unk_waits = true;
    }
  }
  if (unk_waits) out.push_back(unk_id_);
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    const int32_t id = vocabulary_.find(word);
    if (id >= 0) return out.push_back(id);
  }
  scratch.ids.clear();
  spell(word, scratch.ids);
  if (scratch.ids.size() <= kFewSymbols) {
    merge_few(scratch);
  } else {
    merge_many(scratch);
  }
  out.insert(out.end(), scratch.ids.begin(), scratch.ids.end());
}

void Bpe::merge_few(Scratch& scratch) const {
  auto& ids = scratch.ids;
  auto& merges = scratch.merges;  // merges[i]: of ids[i] and ids[i + 1]
  const auto find = [&](size_t i) {
    const Merge* merge = i + 1 < ids.size() ? merge_of(ids[i], ids[i + 1]) : nullptr;
    return merge ? *merge : kNoMerge;
  };
  merges.clear();
  for (size_t i = 0; i < ids.size(); ++i) merges.push_back(find(i));
  while (!merges.empty()) {
    const auto best =
        std::min_element(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (best->rank == kNoMerge.rank) return;
    const auto i = static_cast<size_t>(best - merges.begin());
    ids[i] = static_cast<int32_t>(best->id);
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(i) + 1);
    merges.erase(best + 1);
    merges[i] = find(i);
    if (i > 0) merges[i - 1] = find(i - 1);
  }
}

void Bpe::merge_many(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto count = static_cast<int32_t>(scratch.ids.size());
  const auto later = [](const Waiting& a, const Waiting& b) { return a.order > b.order; };
  const auto waiting = [&](int32_t place, const Merge& merge) {
    return Waiting{static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint32_t>(place), merge.id};
  };
  symbols.resize(scratch.ids.size());
  heap.clear();
  for (int32_t i = 0; i < count; ++i) {
    symbols[static_cast<size_t>(i)] = {scratch.ids[static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1};
    if (i + 1 == count) break;
    if (const Merge* merge = merge_of(scratch.ids[static_cast<size_t>(i)], scratch.ids[static_cast<size_t>(i) + 1]))
      heap.push_back(waiting(i, *merge));
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto symbol = [&](int32_t place) -> Symbol& { return symbols[static_cast<size_t>(place)]; };
  const auto wait = [&](int32_t place) {
    const int32_t next = symbol(place).next;
    if (next < 0) return;
    if (const Merge* merge = merge_of(symbol(place).id, symbol(next).id)) {
      heap.push_back(waiting(place, *merge));
      std::push_heap(heap.begin(), heap.end(), later);
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Waiting top = heap.back();
    heap.pop_back();
    const auto place = static_cast<int32_t>(top.order & 0xffffffffu);
    Symbol& left = symbol(place);
    if (left.id < 0 || left.next < 0) continue;  // it was merged away
    Symbol& right = symbol(left.next);
    const Merge* merge = merge_of(left.id, right.id);
    if (!merge || merge->id != top.id) continue;  // one of the two has changed since
    left.id = static_cast<int32_t>(top.id);
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbol(left.next).previous = place;
    if (left.previous >= 0) wait(left.previous);
    wait(place);
  }
  scratch.ids.clear();
  for (int32_t place = 0; place >= 0 && count > 0; place = symbol(place).next) scratch.ids.push_back(symbol(place).id);
}

}  // namespace lane::tokenizers
