#include "lane/profile/kernel_name.h"

#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <string_view>
#include <utility>

namespace lane::profile {
namespace {

struct Part {
  std::string_view of_name;
  TraceKind kind;
};

// The first part that a name has decides. Names are whole: namespaces, template arguments, parameters.
constexpr Part kParts[] = {
    // Attention: FlashInfer's, cuDNN's, ours (attention/cuda).
    {"flashinfer::", TraceKind::kAttention},
    {"lane::cuda::attention::", TraceKind::kAttention},
    {"fmha", TraceKind::kAttention},
    {"flash_fwd", TraceKind::kAttention},
    {"cudnn_generated", TraceKind::kAttention},
    // Communication: NCCL's, NVSHMEM's, ours (comm/cuda).
    {"ncclDevKernel", TraceKind::kCommunication},
    {"ncclKernel", TraceKind::kCommunication},
    {"nvshmem", TraceKind::kCommunication},
    {"::one_shot", TraceKind::kCommunication},
    {"::two_shot", TraceKind::kCommunication},
    {"hierarchical", TraceKind::kCommunication},
    {"::proxied", TraceKind::kCommunication},
    {"::scatter_sums", TraceKind::kCommunication},
    {"::gather_bytes", TraceKind::kCommunication},
    {"::spread_bytes", TraceKind::kCommunication},
    {"::add_rms_norm<", TraceKind::kCommunication},  // with the all-reduce in it; the one without is rms_norm_kernel
    // Products: ours (kernels/cuda), and what cuBLASLt starts.
    {"::skinny_", TraceKind::kMatmul},
    {"nvjet", TraceKind::kMatmul},
    {"gemm", TraceKind::kMatmul},
    {"gemv", TraceKind::kMatmul},
    {"cutlass", TraceKind::kMatmul},
    {"cublas", TraceKind::kMatmul},
    {"splitK", TraceKind::kMatmul},
};

constexpr std::pair<std::string_view, std::string_view> kShorter[] = {
    {"(anonymous namespace)::", ""},
    {"__nv_bfloat16", "bf16"},
    {"nv_bfloat16", "bf16"},
    {"__half", "f16"},
    {"flashinfer::", ""},
    {"lane::", ""},
    {"cuda::", ""},
    {"attention::", ""},
    {"(bool)0", "false"},
    {"(bool)1", "true"},
    {"(int)", ""},
    {"unsigned int", "u32"},
};
constexpr size_t kMostChars = 46;

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status),
                                                         &std::free);
  return status == 0 && text ? text.get() : name;
}

// Without what is returned and taken: templates are written "void f<int>(int*)".
std::string_view without_signature(std::string_view name) {
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name.substr(i).starts_with("(anonymous namespace)")) {
      i += std::string_view("(anonymous namespace)").size() - 1;
      continue;
    }
    const char c = name[i];
    if (c == '<') ++depth;
    if (c == '>' && depth > 0) --depth;
    if (depth > 0) continue;
    if (c == ' ') begin = i + 1;
    if (c == '(') return name.substr(begin, i - begin);
  }
  return name.substr(begin);
}

std::string shortened(std::string text) {
  for (const auto& [what, by] : kShorter)
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size()))
      text.replace(at, what.size(), by);
  const size_t arguments = std::min(text.find('<'), text.size()), scope = text.rfind("::", arguments);
  if (scope != std::string::npos) text.erase(0, scope + 2);
  if (text.size() > kMostChars) text = text.substr(0, kMostChars - 2) + "..";
  return text;
}

}  // namespace

KernelName read_kernel_name(const std::string& mangled) {
  const std::string whole = demangled(mangled);
  KernelName name{.text = shortened(std::string(without_signature(whole)))};
  for (const Part& part : kParts)
    if (whole.find(part.of_name) != std::string::npos) {
      name.kind = part.kind;
      break;
    }
  name.closes_step = name.text == "close_step_kernel";
  return name;
}

}  // namespace lane::profile
