#include "lane/topology/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <sstream>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/json.h"

namespace lane::topology {
namespace {

// The content of a small kernel file; empty if it cannot be read. (/proc files report a size of 0, so they are read
// to their end.)
std::string read_kernel_file(const std::string& path) {
  if (!file_exists(path)) return {};
  FILE* file = std::fopen(path.c_str(), "re");
  if (!file) return {};
  std::string content;
  char block[4096];
  for (size_t got; (got = std::fread(block, 1, sizeof block, file)) > 0 && content.size() < (1u << 22);)
    content.append(block, got);
  std::fclose(file);
  while (!content.empty() && content.back() == '\n') content.pop_back();
  return content;
}

int64_t parse_int(std::string_view text, int64_t fallback) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} ? value : fallback;
}

// The number after `key` in files of "key: value" lines such as /proc/meminfo; -1 if there is none.
int64_t number_after(const std::string& content, std::string_view key) {
  const size_t at = content.find(key);
  if (at == std::string::npos) return -1;
  const size_t digit = content.find_first_of("0123456789", at + key.size());
  return digit == std::string::npos ? -1 : parse_int(std::string_view(content).substr(digit), -1);
}

std::string text_after(const std::string& content, std::string_view key) {
  const size_t at = content.find(key);
  if (at == std::string::npos) return {};
  const size_t begin = content.find(": ", at), end = content.find('\n', at);
  return begin == std::string::npos || begin > end ? std::string() : content.substr(begin + 2, end - begin - 2);
}

std::vector<int> affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

// cgroup v2: "max" or a number; v1 keeps the limits elsewhere and writes a huge number for "none".
void apply_cgroup(const std::string& root, Machine& machine) {
  const std::string cpu_max = read_kernel_file(root + "/sys/fs/cgroup/cpu.max");
  if (const size_t space = cpu_max.find(' '); space != std::string::npos) {
    const int64_t quota = parse_int(cpu_max, 0), period = parse_int(std::string_view(cpu_max).substr(space + 1), 0);
    if (quota > 0 && period > 0) machine.cpu_quota = static_cast<double>(quota) / static_cast<double>(period);
  }
  for (const auto& [limit_file, usage_file] :
       {std::pair{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        std::pair{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"}}) {
    const int64_t limit = parse_int(read_kernel_file(root + limit_file), 0);
    const int64_t used = parse_int(read_kernel_file(root + usage_file), 0);
    if (limit <= 0 || (machine.memory_bytes > 0 && limit >= machine.memory_bytes)) continue;
    machine.memory_bytes = limit;
    machine.free_memory_bytes = std::min(machine.free_memory_bytes, std::max<int64_t>(limit - used, 0));
  }
}

}  // namespace

int Machine::num_threads() const {
  const int cpus = std::max<int>(1, static_cast<int>(usable_cpus.size()));
  return cpu_quota > 0 ? std::clamp(static_cast<int>(std::ceil(cpu_quota)), 1, cpus) : cpus;
}

Machine discover(const std::string& root) {
  Machine machine;
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) == 0) machine.hostname = name;
  const std::string cpuinfo = read_kernel_file(root + "/proc/cpuinfo");
  machine.cpu_model = text_after(cpuinfo, "model name");
  machine.usable_cpus = affinity();
  const std::string meminfo = read_kernel_file(root + "/proc/meminfo");
  machine.memory_bytes = std::max<int64_t>(number_after(meminfo, "MemTotal"), 0) * 1024;
  machine.free_memory_bytes = std::max<int64_t>(number_after(meminfo, "MemAvailable"), 0) * 1024;
  apply_cgroup(root, machine);
  const std::string nodes = root + "/sys/devices/system/node/";
  for (const int id : parse_cpu_list(read_kernel_file(nodes + "online"))) {
    const std::string node = nodes + "node" + std::to_string(id);
    machine.numa_nodes.push_back(
        {.id = id,
         .cpus = parse_cpu_list(read_kernel_file(node + "/cpulist")),
         .memory_bytes = std::max<int64_t>(number_after(read_kernel_file(node + "/meminfo"), "MemTotal"), 0) * 1024});
  }
  return machine;
}

std::vector<int> parse_cpu_list(std::string_view text) {
  std::vector<int> cpus;
  std::istringstream parts{std::string(text)};
  for (std::string part; std::getline(parts, part, ',');) {
    int first = -1;
    const char* end = part.data() + part.size();
    auto parsed = std::from_chars(part.data(), end, first);
    int last = first;
    if (parsed.ec == std::errc{} && parsed.ptr != end && *parsed.ptr == '-')
      parsed = std::from_chars(parsed.ptr + 1, end, last);
    if (parsed.ec != std::errc{} || parsed.ptr != end || first < 0 || last < first || last > 1 << 16)
      throw Error(ErrorCode::kCorruptData,
                  "CPU list \"" + std::string(text) + "\": expected numbers and ranges such as 0-3,8");
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

std::string to_json(const Machine& machine) {
  Json nodes = Json::array();
  for (const NumaNode& node : machine.numa_nodes)
    nodes.push_back({{"id", node.id}, {"cpus", node.cpus}, {"memory_bytes", node.memory_bytes}});
  return Json{{"hostname", machine.hostname},
              {"cpu_model", machine.cpu_model},
              {"usable_cpus", machine.usable_cpus},
              {"cpu_quota", machine.cpu_quota},
              {"memory_bytes", machine.memory_bytes},
              {"free_memory_bytes", machine.free_memory_bytes},
              {"numa_nodes", nodes}}
      .dump(2);
}

Machine machine_from_json(const std::string& text, const std::string& where) {
  const Json json = parse_json(text, where);
  const auto cpus_of = [&](const Json& object, const char* field) {
    std::vector<int> cpus;
    if (!object.contains(field)) return cpus;
    if (!object[field].is_array()) throw Error(ErrorCode::kCorruptData, where + ": \"" + field + "\": expected a list");
    for (const Json& cpu : object[field]) {
      if (!cpu.is_number_unsigned() || cpu.get<uint64_t>() > 1u << 16)
        throw Error(ErrorCode::kCorruptData, where + ": \"" + field + "\": expected CPU numbers, found " + cpu.dump());
      cpus.push_back(cpu.get<int>());
    }
    return cpus;
  };
  Machine machine;
  machine.hostname = json_string(json, "hostname", "", where);
  machine.cpu_model = json_string(json, "cpu_model", "", where);
  machine.usable_cpus = cpus_of(json, "usable_cpus");
  machine.cpu_quota = json_number(json, "cpu_quota", 0, where);
  machine.memory_bytes = json_int(json, "memory_bytes", 0, where);
  machine.free_memory_bytes = json_int(json, "free_memory_bytes", 0, where);
  if (json.contains("numa_nodes"))
    for (const Json& node : json["numa_nodes"])
      machine.numa_nodes.push_back({.id = static_cast<int>(json_int(node, "id", 0, where)),
                                    .cpus = cpus_of(node, "cpus"),
                                    .memory_bytes = json_int(node, "memory_bytes", 0, where)});
  return machine;
}

}  // namespace lane::topology
