#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace lane::tokenizers {

// Reads bytes one by one and says how they form UTF-8 sequences.
class Utf8Reader {
 public:
  enum class Step : uint8_t { kPart, kWhole, kBad };

  // kBad: `byte` cannot come here. What was pending() is a bad sequence, and `byte` has to be pushed again if there
  // was any: it may begin the next one.
  Step push(unsigned char byte);
  int pending() const { return num_held_; }  // bytes of the sequence that is not whole yet

 private:
  unsigned char lead_ = 0;
  int num_held_ = 0, length_ = 0;
};

// Bytes to text. Each maximal bad part becomes one U+FFFD: the rule of the Unicode Standard (3.9, "Substitution of
// Maximal Subparts"), of Rust and of Python.
class LossyUtf8 {
 public:
  void push(std::string_view bytes, std::string& out);
  void finish(std::string& out);

 private:
  Utf8Reader reader_;
  char held_[4];
};

inline constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

bool is_valid_utf8(std::string_view text);

// The text after this point is valid UTF-8.
inline int utf8_length(char first) {
  const auto lead = static_cast<unsigned char>(first);
  return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}
inline char32_t read_utf8(const char* at) {
  const auto byte = [at](int i) { return static_cast<char32_t>(static_cast<unsigned char>(at[i])); };
  const auto tail = [&](int i) { return byte(i) & 0x3f; };
  switch (utf8_length(*at)) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1f) << 6 | tail(1);
    case 3:
      return (byte(0) & 0xf) << 12 | tail(1) << 6 | tail(2);
    default:
      return (byte(0) & 0x7) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
  }
}
void append_utf8(std::string& out, char32_t point);

bool is_whitespace(char32_t point);  // the property White_Space
bool is_word(char32_t point);        // \w of Unicode's regular expressions: letters, marks, digits, connectors
bool is_numeric(char32_t point);     // categories Nd, Nl, No

enum class NormalForm : uint8_t { kComposed, kDecomposed };  // NFC, NFD
std::string normalize(std::string_view text, NormalForm form);
std::string lowercase(std::string_view text);  // character by character, in no language

// The alphabet of byte-level BPE: a printable character for each byte (Radford et al., GPT-2, 2019).
std::string_view character_of_byte(unsigned char byte);
int byte_of_character(char32_t point);  // -1 if it stands for no byte

}  // namespace lane::tokenizers
