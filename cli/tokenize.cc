#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <sstream>

#include "cli/commands.h"
#include "cli/demo_model.h"
#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/model/tokenizer.h"

namespace lane::cli {
namespace {

struct Flags {
  std::string model;
  bool decode = false, no_special_tokens = false, json = false;
};

// A JSON array, or numbers with blanks or commas between them.
std::vector<int32_t> parse_ids(std::string line, const std::string& where, bool json) {
  Json list = Json::array();
  if (json) {
    list = parse_json(line, where);
  } else {
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream words(line);
    for (std::string word; words >> word;) list.push_back(parse_json(word, where));
  }
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX)
      throw Error(ErrorCode::kInvalidArgument, where + ": expected token ids, found " + id.dump());
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::string transform(const Tokenizer& tokenizer, const Flags& flags, std::string line, const std::string& where) {
  if (flags.decode) {
    const std::string text = tokenizer.decode(parse_ids(line, where, flags.json), flags.no_special_tokens);
    return flags.json ? Json(text).dump(-1, ' ', false, Json::error_handler_t::replace) : text;
  }
  if (flags.json) {
    const Json text = parse_json(line, where);
    if (!text.is_string())
      throw Error(ErrorCode::kInvalidArgument, where + ": expected a JSON string, found " + text.dump());
    line = text.get<std::string>();
  }
  const std::vector<int32_t> ids = tokenizer.encode(line, !flags.no_special_tokens);
  return flags.json ? Json(ids).dump() : fmt::format("{}", fmt::join(ids, " "));
}

}  // namespace

void add_tokenize(CLI::App& app, Program& program) {
  CLI::App* command = app.add_subcommand("tokenize", "Text to token ids and back, a line at a time");
  auto flags = std::make_shared<Flags>();
  command->add_option("--model,-m", flags->model, "Hugging Face folder (default: the demo model)");
  command->add_flag("--decode", flags->decode, "Ids to text");
  command->add_flag("--no-special-tokens", flags->no_special_tokens,
                    "Add none when encoding; leave them out when decoding");
  command->add_flag("--json", flags->json,
                    "A JSON string a line in, a JSON array of ids a line out; with --decode the reverse");
  command->footer("Example: echo 'What is 17 + 25?' | lane tokenize");
  command->callback([&program, flags] {
    program.run = [flags] {
      const Tokenizer tokenizer = Tokenizer::load(flags->model.empty() ? demo_model_folder() : flags->model);
      int64_t number = 0;
      for (std::string line; std::getline(std::cin, line);)
        fmt::print("{}\n", transform(tokenizer, *flags, line, fmt::format("standard input, line {}", ++number)));
      return kExitOk;
    };
  });
}

}  // namespace lane::cli
