#include "lane/base/json.h"

#include <cmath>

#include "lane/base/error.h"

namespace lane {
namespace {

constexpr int kMaxDepth = 64;  // no file that Lane reads nests deeper than about 8 levels

// Refuses JSON so deep that code which recurses over it (the library's copies and dump() do) could run out of stack.
void check_depth(std::string_view text, const std::string& where) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth)
        throw Error(ErrorCode::kCorruptData,
                    where + ": nested deeper than " + std::to_string(kMaxDepth) + " levels of JSON");
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

// The field, or null if it is missing.
const Json* find(const Json& object, const char* field, const std::string& where) {
  if (!object.is_object())
    throw Error(ErrorCode::kCorruptData,
                where + ": expected an object that holds \"" + field + "\", found " + object.type_name());
  const auto at = object.find(field);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

[[noreturn]] void wrong_type(const Json& value, const char* field, const char* wanted, const std::string& where) {
  std::string shown = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
  throw Error(ErrorCode::kCorruptData, where + ": \"" + field + "\" is " + shown + "; expected " + wanted);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  check_depth(text, where);
  try {
    return Json::parse(text);
  } catch (const Json::exception& error) {
    throw Error(ErrorCode::kCorruptData, where + ": not valid JSON: " + error.what());
  }
}

std::string in_quotes(std::string_view text) {
  std::string shown = "\"";
  for (const char c : text.substr(0, 100)) shown += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return shown + (text.size() > 100 ? "...\"" : "\"");
}

int64_t json_int(const Json& object, const char* field, int64_t fallback, const std::string& where) {
  const Json* value = find(object, field, where);
  if (!value) return fallback;
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    wrong_type(*value, field, "a whole number below 2^63", where);
  if (value->is_number_integer()) return value->get<int64_t>();
  if (value->is_number_float()) {  // 1e6 is a whole number too
    const double number = value->get<double>();
    if (std::abs(number) < 9e15 && number == std::floor(number)) return static_cast<int64_t>(number);
  }
  wrong_type(*value, field, "a whole number", where);
}

double json_number(const Json& object, const char* field, double fallback, const std::string& where) {
  const Json* value = find(object, field, where);
  if (!value) return fallback;
  if (!value->is_number()) wrong_type(*value, field, "a number", where);
  return value->get<double>();
}

bool json_bool(const Json& object, const char* field, bool fallback, const std::string& where) {
  const Json* value = find(object, field, where);
  if (!value) return fallback;
  if (!value->is_boolean()) wrong_type(*value, field, "true or false", where);
  return value->get<bool>();
}

std::string json_string(const Json& object, const char* field, const std::string& fallback, const std::string& where) {
  const Json* value = find(object, field, where);
  if (!value) return fallback;
  if (!value->is_string()) wrong_type(*value, field, "a string", where);
  return value->get<std::string>();
}

}  // namespace lane
