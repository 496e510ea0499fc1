#pragma once
#include <CLI/CLI.hpp>
#include <string>

#include "lane/runtime/session.h"

namespace lane::cli {

// The flags that say which model runs and on what; the same for every subcommand that runs one. Long names are vLLM's.
struct EngineFlags {
  SessionOptions session;
  int tensor_parallel = 0;  // 0: not given; as many as the launcher started, else 1
  std::string load_format = "auto", kv_cache_memory = "", trace_file, device = "auto";
  bool no_progress = false, breakdown = false;

  void add_to(CLI::App& app);
  // Checks what the parser cannot and fills `session`. Call once, after parsing.
  void finish();
  bool uses_demo_model() const { return demo_; }
  // Whether what a GPU does is recorded.
  bool watches_gpu() const { return session.device.kind == DeviceKind::kCuda && (breakdown || !trace_file.empty()); }

 private:
  bool demo_ = false;
};

}  // namespace lane::cli
