#include "lane/base/json.h"

#include <gtest/gtest.h>

#include <functional>

#include "lane/base/error.h"

namespace lane {
namespace {

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Json, MissingAndNullFieldsGiveTheFallback) {
  const Json json = parse_json(R"({"a": null, "b": 2})", "x.json");
  EXPECT_EQ(json_int(json, "a", 7, "x.json"), 7);
  EXPECT_EQ(json_int(json, "c", 7, "x.json"), 7);
  EXPECT_EQ(json_int(json, "b", 7, "x.json"), 2);
  EXPECT_EQ(json_string(json, "c", "d", "x.json"), "d");
}

TEST(Json, WholeNumbersMayBeWrittenAsFloats) {
  const Json json = parse_json(R"({"theta": 500000.0, "half": 0.5, "huge": 18446744073709551615})", "x.json");
  EXPECT_EQ(json_int(json, "theta", 0, "x.json"), 500000);
  EXPECT_THROW(json_int(json, "half", 0, "x.json"), Error);
  EXPECT_THROW(json_int(json, "huge", 0, "x.json"), Error);
}

TEST(Json, ErrorsNameFileFieldAndValue) {
  const Json json = parse_json(R"({"layers": "many"})", "config.json");
  const std::string message = message_of([&] { json_int(json, "layers", 0, "config.json"); });
  for (const char* part : {"config.json", "layers", "many", "whole number"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_NE(message_of([] { parse_json("{\"a\": ", "broken.json"); }).find("broken.json"), std::string::npos);
  EXPECT_NE(message_of([] { json_int(Json::array(), "a", 0, "list.json"); }).find("expected an object"),
            std::string::npos);
}

TEST(Json, DeepNestingNeitherCrashesNorHangs) {
  const std::string deep(200000, '[');
  EXPECT_THROW(parse_json(deep, "deep.json"), Error);
}

}  // namespace
}  // namespace lane
