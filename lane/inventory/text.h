#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/inventory/inventory.h"

namespace lane::inventory {

struct Line {
  int number = 1;  // from 1, as editors count
  std::string_view text;
};

// Without line ends, "\r" included.
std::vector<Line> lines_of(std::string_view text);

std::string_view without_blanks(std::string_view text);
std::vector<std::string_view> words_of(std::string_view text);  // split at spaces and tabs
std::string lower_case(std::string_view text);

// The text without the codes that colour and underline on a terminal, also where a copy has lost their escape byte.
std::string without_terminal_codes(std::string_view text);

// The whole text as a number; else nothing.
std::optional<int64_t> int_of(std::string_view text);
std::optional<double> number_of(std::string_view text);

// "key : value", cut at the first colon that ends the key. Both trimmed; `has_value` tells "key:" from "key".
struct KeyValue {
  std::string_view key, value;
  bool has_colon = false;
};
KeyValue key_value_of(std::string_view line);

// Error{kCorruptData}: "dump.txt:12: row of GPU3: expected 9 cells, found 7"
[[noreturn]] void corrupt(const std::string& where, int line, const std::string& what);

// Notes in `text.<name>` that the output of `tool` was read. False: there is nothing in it, which is what tools print
// that find no devices, but also what a failed command leaves; the fact then says so.
bool note_text(Inventory& inventory, const std::string& name, const std::string& tool, const std::string& where,
               std::string_view text);

}  // namespace lane::inventory
