#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/random.h"

namespace lane::tokenizers {

// A hash map from 64-bit keys below 2^64 - 1 to small values, with linear probing. It only grows.
template <class Value>
class KeyMap {
 public:
  const Value* find(uint64_t key) const {
    if (slots_.empty()) return nullptr;
    for (size_t at = mix64(key) & mask_;; at = (at + 1) & mask_) {
      if (slots_[at].key == key) return &slots_[at].value;
      if (slots_[at].key == kFree) return nullptr;
    }
  }
  Value& operator[](uint64_t key) {
    if (2 * (size_ + 1) > slots_.size()) grow(slots_.empty() ? 16 : 2 * slots_.size());
    size_t at = mix64(key) & mask_;
    while (slots_[at].key != key && slots_[at].key != kFree) at = (at + 1) & mask_;
    if (slots_[at].key == kFree) {
      slots_[at].key = key;
      ++size_;
    }
    return slots_[at].value;
  }
  void reserve(size_t count) {
    size_t num_slots = 16;
    while (num_slots < 2 * (count + 1)) num_slots *= 2;
    if (num_slots > slots_.size()) grow(num_slots);
  }
  size_t size() const { return size_; }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};
  struct Slot {
    uint64_t key = kFree;
    Value value{};
  };

  void grow(size_t num_slots) {
    std::vector<Slot> old(num_slots);
    old.swap(slots_);
    mask_ = num_slots - 1, size_ = 0;
    for (const auto& slot : old)
      if (slot.key != kFree) (*this)[slot.key] = slot.value;
  }

  std::vector<Slot> slots_;
  size_t mask_ = 0, size_ = 0;
};

// Token strings and their ids, both ways.
class Vocabulary {
 public:
  Vocabulary() { characters_.fill(-1); }
  void reserve(size_t num_tokens);
  // `token` is new; an id of two tokens belongs to the first one.
  void add(std::string_view token, int32_t id);

  int32_t find(std::string_view token) const;                 // -1 if it is unknown
  int32_t find_character(std::string_view character) const {  // the same, faster for one character
    const auto lead = static_cast<unsigned char>(character[0]);
    if (lead < 0x80) return characters_[lead];
    if (lead < 0xc6) return characters_[(lead & 0x1fu) << 6 | (static_cast<unsigned char>(character[1]) & 0x3fu)];
    return find(character);
  }
  bool has(int32_t id) const { return id >= 0 && id < end_id() && by_id_[static_cast<size_t>(id)] != 0; }
  std::string_view token(int32_t id) const;  // empty if there is none
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }
  int64_t end_id() const { return static_cast<int64_t>(by_id_.size()); }  // highest id + 1

 private:
  struct Entry {
    size_t offset;
    uint32_t length;
    int32_t id;
  };
  struct Slot {
    uint32_t hash = 0, entry = 0;  // index in entries_ + 1; 0: free
  };
  std::string_view text(const Entry& entry) const {
    return std::string_view(bytes_).substr(entry.offset, entry.length);
  }
  void grow(size_t num_slots);

  std::string bytes_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> by_id_;              // index in entries_ + 1; 0: none
  std::array<int32_t, 0x180> characters_{};  // ids of the first code points, byte-level's alphabet among them
};

}  // namespace lane::tokenizers
