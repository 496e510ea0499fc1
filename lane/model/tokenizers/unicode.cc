#include "lane/model/tokenizers/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "lane/base/error.h"
#include "lane/model/tokenizers/unicode_versions.h"

namespace lane::tokenizers {

Utf8Reader::Step Utf8Reader::push(unsigned char byte) {
  if (num_held_ == 0) {
    if (byte < 0x80) return Step::kWhole;
    if (byte < 0xc2 || byte > 0xf4) return Step::kBad;
    lead_ = byte, num_held_ = 1, length_ = utf8_length(static_cast<char>(byte));
    return Step::kPart;
  }
  unsigned char low = 0x80, high = 0xbf;
  if (num_held_ == 1) {  // these leads exclude overlong forms, surrogates and points above U+10FFFF
    if (lead_ == 0xe0) low = 0xa0;
    if (lead_ == 0xed) high = 0x9f;
    if (lead_ == 0xf0) low = 0x90;
    if (lead_ == 0xf4) high = 0x8f;
  }
  if (byte < low || byte > high) {
    num_held_ = 0;
    return Step::kBad;
  }
  if (++num_held_ < length_) return Step::kPart;
  num_held_ = 0;
  return Step::kWhole;
}

void LossyUtf8::push(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) {
    int held = reader_.pending();
    auto step = reader_.push(static_cast<unsigned char>(byte));
    if (step == Utf8Reader::Step::kBad && held > 0) {
      out += kReplacement;
      held = 0;
      step = reader_.push(static_cast<unsigned char>(byte));
    }
    if (step == Utf8Reader::Step::kBad) {
      out += kReplacement;
    } else if (step == Utf8Reader::Step::kPart) {
      held_[held] = byte;
    } else {
      out.append(held_, static_cast<size_t>(held));
      out += byte;
    }
  }
}

void LossyUtf8::finish(std::string& out) {
  if (reader_.pending() > 0) out += kReplacement;
  reader_ = {};
}

bool is_valid_utf8(std::string_view text) {
  Utf8Reader reader;
  for (const char byte : text)
    if (reader.push(static_cast<unsigned char>(byte)) == Utf8Reader::Step::kBad) return false;
  return reader.pending() == 0;
}

void append_utf8(std::string& out, char32_t point) {
  const auto put = [&out](char32_t byte) { out += static_cast<char>(byte); };
  if (point < 0x80) return put(point);
  if (point < 0x800) {
    put(0xc0 | point >> 6);
  } else {
    if (point < 0x10000) {
      put(0xe0 | point >> 12);
    } else {
      put(0xf0 | point >> 18);
      put(0x80 | (point >> 12 & 0x3f));
    }
    put(0x80 | (point >> 6 & 0x3f));
  }
  put(0x80 | (point & 0x3f));
}

bool is_whitespace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
         c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_word(char32_t c) {
  c = as_unicode_14(c);
  if ((c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
      (c >= 0x1f170 && c <= 0x1f189) || c == 0x200c || c == 0x200d)
    return true;  // circled and squared letters are Alphabetic; the joiners are Join_Control
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool is_numeric(char32_t c) {
  c = as_unicode_14(c);
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

namespace {

// True if `c` neither changes under normalisation nor can touch its neighbours.
bool is_inert(char32_t c, NormalForm form) {
  if (c < 0xc0) return true;
  if (c < 0x300) return form == NormalForm::kComposed;
  if (c >= 0x1100 && c < 0x1200) return false;                                                    // conjoining Jamo
  if (c >= 0xac00 && c < 0xd7a4) return form == NormalForm::kComposed && (c - 0xac00) % 28 != 0;  // LV could take a T
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  return property->combining_class == 0 && property->decomp_seqindex == UINT16_MAX &&
         property->comb_index == UINT16_MAX;
}

// Composes what lies between unknown characters; those stay alone.
std::vector<utf8proc_int32_t> compose(std::vector<utf8proc_int32_t> points) {
  const auto is_unknown = [](utf8proc_int32_t c) { return is_unknown_to_normalization(static_cast<char32_t>(c)); };
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  size_t num_left = 0;
  for (size_t begin = 0; begin < points.size();) {
    const auto first = points.begin() + static_cast<ptrdiff_t>(begin);
    const auto end = is_unknown(*first) ? first + 1 : std::find_if(first, points.end(), is_unknown);
    const auto left = is_unknown(*first) ? 1 : utf8proc_normalize_utf32(&*first, end - first, options);
    ensure(left >= 0 && left <= end - first, "composition shrinks");
    std::copy(first, first + left, points.begin() + static_cast<ptrdiff_t>(num_left));
    num_left += static_cast<size_t>(left);
    begin = static_cast<size_t>(end - points.begin());
  }
  points.resize(num_left);
  return points;
}

}  // namespace

std::string normalize(std::string_view text, NormalForm form) {
  const char *at = text.data(), *const end = at + text.size();
  while (at != end && is_inert(read_utf8(at), form)) at += utf8_length(*at);
  if (at == end) return std::string(text);

  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (at = text.data(); at != end; at += utf8_length(*at)) {
    const char32_t point = read_utf8(at);
    if (is_unknown_to_normalization(point)) {
      points.push_back(static_cast<utf8proc_int32_t>(point));
      continue;
    }
    std::array<utf8proc_int32_t, 16> parts;  // no canonical decomposition is longer than 4
    const auto num_parts = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(point), parts.data(), parts.size(),
                                                   UTF8PROC_DECOMPOSE, nullptr);
    ensure(num_parts > 0 && num_parts <= static_cast<utf8proc_ssize_t>(parts.size()), "a character decomposes");
    points.insert(points.end(), parts.begin(), parts.begin() + num_parts);
  }
  // Canonical order by a stable sort of each run of marks; utf8proc_decompose() needs quadratic time for it.
  const auto rank = [](utf8proc_int32_t c) {
    if (c < 0x300 || is_unknown_to_normalization(static_cast<char32_t>(c))) return 0;
    return static_cast<int>(utf8proc_get_property(c)->combining_class);
  };
  for (auto mark = points.begin(); mark != points.end();) {
    const auto last = std::find_if(mark, points.end(), [&](utf8proc_int32_t c) { return rank(c) == 0; });
    if (last - mark > 1)
      std::stable_sort(mark, last, [&](utf8proc_int32_t a, utf8proc_int32_t b) { return rank(a) < rank(b); });
    mark = last == points.end() ? last : last + 1;
  }
  if (form == NormalForm::kComposed) points = compose(std::move(points));
  std::string out;
  out.reserve(text.size());
  for (const auto point : points) append_utf8(out, static_cast<char32_t>(point));
  return out;
}

std::string lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); i += static_cast<size_t>(utf8_length(text[i]))) {
    const char32_t c = read_utf8(&text[i]);
    if (c == 0x130) {  // the one letter whose lower case is two
      out += "i\xcc\x87";
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    }
  }
  return out;
}

namespace {

// Printable Latin-1 stands for itself, the 68 other bytes for U+0100 and up.
struct ByteAlphabet {
  std::array<std::string, 256> characters;
  std::array<int16_t, 0x144> bytes;

  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
      const char32_t point = printable ? static_cast<char32_t>(byte) : next++;
      append_utf8(characters[static_cast<size_t>(byte)], point);
      bytes[point] = static_cast<int16_t>(byte);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

}  // namespace

std::string_view character_of_byte(unsigned char byte) { return byte_alphabet().characters[byte]; }

int byte_of_character(char32_t point) {
  const auto& bytes = byte_alphabet().bytes;
  return point < bytes.size() ? bytes[point] : -1;
}

}  // namespace lane::tokenizers
