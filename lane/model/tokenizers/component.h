#pragma once
#include <string>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/model/tokenizers/unicode.h"

namespace lane::tokenizers {

// What the readers of tokenizer.json's components share. `where` names the file and the component's place in it.

inline std::string component_type(const Json& json, const std::string& where) {
  const std::string type = json_string(json, "type", "", where);
  if (type.empty()) throw Error(ErrorCode::kUnsupported, where + ": a component without a \"type\" is not supported");
  return type;
}

[[noreturn]] inline void refuse_component(const std::string& type, const char* known, const std::string& where) {
  throw Error(ErrorCode::kUnsupported, where + ": \"" + type + "\" is not supported; supported are " + known);
}

inline const Json& json_field(const Json& object, const char* field, const std::string& where) {
  const auto at = object.find(field);
  if (at == object.end()) throw Error(ErrorCode::kCorruptData, where + ": \"" + field + "\" is missing");
  return *at;
}

inline std::string required_string(const Json& object, const char* field, const std::string& where) {
  const Json& value = json_field(object, field, where);
  if (!value.is_string()) throw Error(ErrorCode::kCorruptData, where + ": \"" + field + "\" is not a string");
  return value.get<std::string>();
}

// Calls parse(part, where of the part) for each part of a "Sequence".
template <class Parse>
void for_each_part(const Json& sequence, const char* field, const std::string& where, Parse&& parse) {
  const Json& parts = json_field(sequence, field, where);
  if (!parts.is_array()) throw Error(ErrorCode::kCorruptData, where + ": \"" + field + "\" is not a list");
  for (size_t i = 0; i < parts.size(); ++i) parse(parts[i], where + "[" + std::to_string(i) + "]");
}

// A field that holds exactly one character.
inline std::string required_character(const Json& object, const char* field, const std::string& where) {
  std::string text = required_string(object, field, where);
  if (text.empty() || static_cast<size_t>(utf8_length(text[0])) != text.size())
    throw Error(ErrorCode::kCorruptData, where + ": \"" + field + "\" is not one character");
  return text;
}

enum class PrependScheme : uint8_t { kNever, kFirst, kAlways };

// Of a Metaspace, which is a pre-tokenizer and a decoder. Older files have `add_prefix_space` instead.
inline PrependScheme prepend_scheme(const Json& metaspace, const std::string& where) {
  const bool adds = json_bool(metaspace, "add_prefix_space", true, where);
  const std::string name = json_string(metaspace, "prepend_scheme", adds ? "always" : "never", where);
  if (!adds && name != "never")
    throw Error(ErrorCode::kCorruptData, where + ": \"add_prefix_space\" contradicts \"prepend_scheme\"");
  if (name == "never") return PrependScheme::kNever;
  if (name == "first") return PrependScheme::kFirst;
  if (name == "always") return PrependScheme::kAlways;
  throw Error(ErrorCode::kUnsupported, where + ": the prepend_scheme \"" + name + "\" is not supported");
}

}  // namespace lane::tokenizers
