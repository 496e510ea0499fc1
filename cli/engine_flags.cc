#include "cli/engine_flags.h"

#include "cli/demo_model.h"
#include "lane/base/units.h"

namespace lane::cli {

void EngineFlags::add_to(CLI::App& app) {
  const std::string model = "Model", parallel = "Ranks", limits = "Limits", shown = "Measuring";
  app.add_option("--model,-m", session.model, "Hugging Face folder (default: the demo model that comes with Lane)")
      ->group(model);
  app.add_option("--dtype", session.dtype, "Of weights and KV cache: auto (as on disk), bfloat16, float16, float32")
      ->capture_default_str()
      ->group(model);
  app.add_option("--load-format", load_format, "auto, or dummy: seeded random weights from config.json alone")
      ->check(CLI::IsMember({"auto", "safetensors", "dummy"}))
      ->capture_default_str()
      ->group(model);
  app.add_option("--attention-backend", session.attention_backend, "auto, flash, reference or, on a GPU, flashinfer")
      ->capture_default_str()
      ->group(model);

  app.add_option("--tensor-parallel-size,--tp", tensor_parallel,
                 "Ranks; started here unless mpirun, srun or torchrun did (default 1)")
      ->check(CLI::Range(1, 1024))
      ->group(parallel);
  app.add_option("--threads,-t", session.num_threads, "Threads of each rank (default: the machine's CPUs / ranks)")
      ->check(CLI::Range(1, 4096))
      ->group(parallel);

  const std::string gpu = "GPU";
  app.add_option("--device", device, "cpu, cuda with a GPU for each rank, or auto: cuda where there are such GPUs")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str()
      ->group(gpu);
  app.add_option("--gpu-memory-utilization", session.gpu_memory_utilization,
                 "Share of a GPU's memory for weights, work space and KV cache")
      ->check(CLI::Range(0.05, 1.0))
      ->capture_default_str()
      ->group(gpu);
  app.add_flag("--enforce-eager", session.enforce_eager, "Start every kernel by itself: no graphs")->group(gpu);

  app.add_option("--max-model-len", session.max_model_len, "Tokens of a prompt and its output (default: the model's)")
      ->check(CLI::PositiveNumber)
      ->group(limits);
  app.add_option("--max-num-seqs", session.max_num_seqs, "Sequences computed at once (default: 64, on GPUs 256)")
      ->check(CLI::Range(1, 1 << 20))
      ->group(limits);
  app.add_option("--max-num-batched-tokens", session.max_num_batched_tokens,
                 "Tokens of one step; longer prompts are cut into chunks (default: 512, on GPUs 8192)")
      ->check(CLI::Range(1, 1 << 24))
      ->group(limits);
  app.add_option("--block-size", session.block_tokens, "Tokens of a KV cache page")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str()
      ->group(limits);
  app.add_option("--kv-cache-memory-bytes", kv_cache_memory,
                 "KV cache of each rank, such as 2G (default: from free memory)")
      ->group(limits);

  app.add_flag("--breakdown", breakdown, "Print where the time went: matmul, communication, attention, other, idle")
      ->group(shown);
  app.add_option("--trace", trace_file, "Write a trace for ui.perfetto.dev, one track a rank")->group(shown);
  app.add_flag("--no-progress", no_progress, "No progress bars (there are none without a terminal)")->group(shown);
}

void EngineFlags::finish() {
  demo_ = session.model.empty();
  if (demo_) session.model = demo_model_folder();
  session.dummy_weights = load_format == "dummy";
  if (!kv_cache_memory.empty()) session.kv_cache_memory_bytes = parse_bytes(kv_cache_memory, "--kv-cache-memory-bytes");
}

}  // namespace lane::cli
