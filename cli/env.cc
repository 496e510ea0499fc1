#include <fmt/format.h>

#include <cstdio>

#include "cli/commands.h"
#include "lane/base/json.h"
#include "lane/base/settings.h"

namespace lane::cli {

void add_env(CLI::App& app, Program& program) {
  CLI::App* command = app.add_subcommand("env", "Every setting: its value in force, where it is from, what it means");
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "One JSON object");
  command->callback([&program, json] {
    program.run = [json] {
      Json all = Json::object();
      for (const Setting& known : kSettings) {
        const std::string value = setting(known.name);
        const bool set = value != known.fallback;
        all[std::string(known.name)] = {{"value", value}, {"default", known.fallback}, {"help", known.help}};
        if (!*json)
          fmt::print("{:<18} {:<10} {:<9} {}\n", known.name, value.empty() ? "-" : value, set ? "(set)" : "(default)",
                     known.help);
      }
      if (*json) fmt::print("{}\n", all.dump(2));
      return kExitOk;
    };
  });
}

}  // namespace lane::cli
