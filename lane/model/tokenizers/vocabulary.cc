#include "lane/model/tokenizers/vocabulary.h"

#include <functional>

#include "lane/base/error.h"
#include "lane/model/tokenizers/unicode.h"

namespace lane::tokenizers {
namespace {

uint32_t hash_of(std::string_view token) { return static_cast<uint32_t>(std::hash<std::string_view>()(token)); }

}  // namespace

void Vocabulary::grow(size_t num_slots) {
  slots_.assign(num_slots, {});
  for (size_t i = 0; i < entries_.size(); ++i) {
    const uint32_t hash = hash_of(text(entries_[i]));
    size_t at = hash & (num_slots - 1);
    while (slots_[at].entry != 0) at = (at + 1) & (num_slots - 1);
    slots_[at] = {hash, static_cast<uint32_t>(i + 1)};
  }
}

void Vocabulary::reserve(size_t num_tokens) {
  entries_.reserve(num_tokens);
  size_t num_slots = 16;
  while (num_slots < 2 * (num_tokens + 1)) num_slots *= 2;
  if (num_slots > slots_.size()) grow(num_slots);
}

void Vocabulary::add(std::string_view token, int32_t id) {
  ensure(id >= 0, "an id is not negative");
  if (2 * (entries_.size() + 1) > slots_.size()) reserve(2 * (entries_.size() + 1));
  const uint32_t hash = hash_of(token);
  size_t at = hash & (slots_.size() - 1);
  while (slots_[at].entry != 0) at = (at + 1) & (slots_.size() - 1);
  entries_.push_back({bytes_.size(), static_cast<uint32_t>(token.size()), id});
  bytes_ += token;
  const auto entry = static_cast<uint32_t>(entries_.size());
  slots_[at] = {hash, entry};
  if (id >= end_id()) by_id_.resize(static_cast<size_t>(id) + 1);
  if (by_id_[static_cast<size_t>(id)] == 0) by_id_[static_cast<size_t>(id)] = entry;
  if (!token.empty() && token.size() == static_cast<size_t>(utf8_length(token[0]))) {
    const char32_t point = read_utf8(token.data());
    if (point < characters_.size()) characters_[point] = id;
  }
}

int32_t Vocabulary::find(std::string_view token) const {
  if (slots_.empty()) return -1;
  const uint32_t hash = hash_of(token);
  for (size_t at = hash & (slots_.size() - 1); slots_[at].entry != 0; at = (at + 1) & (slots_.size() - 1))
    if (slots_[at].hash == hash) {
      const Entry& entry = entries_[slots_[at].entry - 1];
      if (text(entry) == token) return entry.id;
    }
  return -1;
}

std::string_view Vocabulary::token(int32_t id) const {
  return has(id) ? text(entries_[by_id_[static_cast<size_t>(id)] - 1]) : std::string_view();
}

}  // namespace lane::tokenizers
