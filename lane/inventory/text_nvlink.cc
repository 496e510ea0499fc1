// `nvidia-smi nvlink -s`: a line for each GPU, and below it one for each of its links.
//
//   GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-...)
//            Link 0: 26.562 GB/s
//            Link 1: <inactive>
//
// It says nothing of what the links lead to. A GPU without NVLink has no lines of links, or is not there.
#include <fmt/format.h>

#include <map>

#include "lane/inventory/matching.h"
#include "lane/inventory/text.h"

namespace lane::inventory {
namespace {

constexpr int kMaxIndex = 1023;

struct ListedGpu {
  std::string name;
  std::map<int, double> links;  // gigabytes per second, 0: inactive
  bool has_only_inactive = false;
};

// "GPU 0" and "Link 12": the number behind the word; nothing if it is another line.
std::optional<int> number_after(std::string_view word, std::string_view key, const std::string& where, int line) {
  if (!key.starts_with(word) || key.size() == word.size() || key[word.size()] != ' ') return std::nullopt;
  const auto number = int_of(without_blanks(key.substr(word.size())));
  if (!number || *number < 0 || *number > kMaxIndex)
    corrupt(where, line, fmt::format("\"{}\": expected a number from 0 to {} after \"{}\"", key, kMaxIndex, word));
  return static_cast<int>(*number);
}

// GB/s of "26.562 GB/s", 0 of "<inactive>", nothing of words that are not known.
std::optional<double> link_speed(std::string_view value) {
  if (value == "<inactive>") return 0.0;
  const auto words = words_of(value);
  if (words.size() != 2 || words[1] != "GB/s") return std::nullopt;
  const auto speed = number_of(words[0]);
  return speed && *speed > 0 && *speed < 10'000 ? speed : std::nullopt;
}

std::map<int, ListedGpu> read_list(std::string_view text, const std::string& where) {
  std::map<int, ListedGpu> gpus;
  ListedGpu* gpu = nullptr;
  bool has_message = false;
  for (const Line& line : lines_of(text)) {
    const auto [key, value, has_colon] = key_value_of(line.text);
    if (key == "NVML") has_message = true;
    if (!has_colon) continue;
    if (const auto index = number_after("GPU", key, where, line.number)) {
      const auto [at, is_new] = gpus.try_emplace(*index);
      if (!is_new) corrupt(where, line.number, fmt::format("GPU {} is there twice", *index));
      gpu = &at->second;
      gpu->name = without_blanks(value.substr(0, value.find("(UUID")));
    } else if (const auto link = number_after("Link", key, where, line.number)) {
      if (!gpu) corrupt(where, line.number, "a link before the first GPU");
      if (const auto speed = link_speed(value); speed && !gpu->links.emplace(*link, *speed).second)
        corrupt(where, line.number, fmt::format("link {} is there twice", *link));
    } else if (gpu && lower_case(value).find("all links are inactive") != std::string::npos) {
      gpu->has_only_inactive = true;
    }
  }
  if (gpus.empty() && !has_message)
    corrupt(where, 1, "expected the output of `nvidia-smi nvlink -s`: no line \"GPU 0: ...\"");
  return gpus;
}

void fill_links(const ListedGpu& listed, int place, const std::string& where, Inventory& inventory) {
  topology::Gpu& gpu = host_of(inventory).gpus[static_cast<size_t>(place)];
  fill(gpu.name, {}, listed.name);
  if (listed.links.empty()) {  // "no line" may also be a text that is cut off
    if (listed.has_only_inactive) fill(gpu.num_nvlinks, -1, 0);
    return;
  }
  int num_active = 0;
  double slowest = 0;
  for (const auto& [link, speed] : listed.links) {
    if (speed > 0) slowest = num_active++ == 0 ? speed : std::min(slowest, speed);
    fill_fact(inventory, fmt::format("gpu.{}.nvlink.{}", gpu.index, link),
              {.value = speed > 0 ? "active" : "inactive", .source = where});
  }
  fill(gpu.num_nvlinks, -1, num_active);
  fill(gpu.max_nvlinks, -1, static_cast<int>(listed.links.size()));
  fill(gpu.nvlink_gb_per_s, 0.0, slowest);
}

}  // namespace

void read_nvlink_s(std::string_view text, const std::string& where, Inventory& inventory) {
  const Rollback rollback(inventory);
  if (!note_text(inventory, "nvlink_s", "nvidia-smi nvlink -s", where, text)) return;
  const auto gpus = read_list(without_terminal_codes(text), where);
  topology::Host& host = host_of(inventory);
  if (const auto why_not = why_not_by_index(host, static_cast<int>(gpus.size())); !gpus.empty() && !why_not.empty()) {
    inventory.facts["text.nvlink_s"] = {.source = where, .why_unknown = why_not};
    return;
  }
  for (const auto& [index, listed] : gpus) fill_links(listed, gpu_of(host, {}, index), where, inventory);
  infer_nvswitches(host);
}

}  // namespace lane::inventory
