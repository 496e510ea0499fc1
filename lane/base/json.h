#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace lane {

using Json = nlohmann::json;

// Parses `text`; Error{kCorruptData} says "<where>: not valid JSON: <why>". Nesting deeper than 64 levels is refused: a
// megabyte of '[' must not end the stack.
Json parse_json(std::string_view text, const std::string& where);

// Words from a file, fit for an error message: printable and short.
std::string in_quotes(std::string_view text);

// Typed access that names the file and the field when it fails. `where` is the file; a missing or null field
// gives `fallback`, and a field of another type is Error{kCorruptData}.
int64_t json_int(const Json& object, const char* field, int64_t fallback, const std::string& where);
double json_number(const Json& object, const char* field, double fallback, const std::string& where);
bool json_bool(const Json& object, const char* field, bool fallback, const std::string& where);
std::string json_string(const Json& object, const char* field, const std::string& fallback, const std::string& where);

}  // namespace lane
