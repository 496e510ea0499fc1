#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <utility>

#include "lane/plan/parallel.h"

namespace lane::cli {

// --model and --config of commands that ask about a model without running it: no weights are read.
struct ShapeFlags {
  std::string
      model;  // a public model's name, or a folder with config.json; what it holds before add_to() is the default
  std::string config;  // or the file itself
  void add_to(CLI::App& command);
  // Its name for people, and its shape. Throws Error{kInvalidArgument} that lists the names if there is no such model.
  std::pair<std::string, plan::ModelShape> finish() const;
};

}  // namespace lane::cli
