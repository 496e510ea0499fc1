// The matrix of `nvidia-smi topo -m`: a row of column names, then a row for each GPU and NIC, then an empty line and
// legends. Drivers differ: NICs are columns NIC0, NIC1, ... with a legend or bear their own names; the column
// "GPU NUMA ID" is new; columns are apart by tabs, two tabs or spaces. No cell holds a space, so words are cells.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "lane/base/error.h"
#include "lane/inventory/matching.h"
#include "lane/inventory/text.h"

namespace lane::inventory {
namespace {

using topology::Host;
using topology::Path;

constexpr size_t kMaxColumns = 512;
constexpr int kMaxIndex = 1023;

struct Cell {
  Path path = Path::kUnknown;
  int num_nvlinks = 0;
};

struct Row {
  int line = 0;
  std::vector<Cell> cells;
  std::vector<std::string> rest;  // CPU affinity, NUMA affinity, the GPU's own NUMA node
};

struct Matrix {
  int header_line = 0;
  std::vector<std::string> columns;  // GPU0, GPU1, ..., NIC0 or mlx5_0, ...
  std::vector<std::string> rest;     // names of the columns behind the matrix
  std::map<std::string, Row> rows;
  std::map<std::string, std::string> nic_names;  // NIC0: mlx5_0
};

// The number of "GPU12" or "NIC12"; -1 if it is something else.
int numbered(std::string_view name, std::string_view kind) {
  if (!name.starts_with(kind)) return -1;
  const auto number = int_of(name.substr(kind.size()));
  return number && *number >= 0 && *number <= kMaxIndex ? static_cast<int>(*number) : -1;
}

Cell cell_of(std::string_view word) {
  constexpr std::pair<std::string_view, Path> kWords[] = {{"X", Path::kSelf},    {"PIX", Path::kPix},
                                                          {"PXB", Path::kPxb},   {"PHB", Path::kPhb},
                                                          {"NODE", Path::kNode}, {"SYS", Path::kSys}};
  for (const auto& [name, path] : kWords)
    if (word == name) return {path};
  if (const int links = numbered(word, "NV"); links > 0) return {Path::kNvlink, links};
  return {};  // a word of another driver
}

// `topo -p2p` prints a matrix of the same shape, but of what GPUs may do with each other.
bool is_p2p_word(std::string_view word) {
  constexpr std::string_view kWords[] = {"OK", "CNS", "GNS", "TNS", "NS", "DR", "U"};
  return std::find(std::begin(kWords), std::end(kWords), word) != std::end(kWords);
}

bool is_header(const std::vector<std::string_view>& words) {
  return !words.empty() && numbered(words[0], "GPU") >= 0 &&
         std::none_of(words.begin(), words.end(), [](auto word) { return word == "X" || is_p2p_word(word); });
}

void read_header(std::string_view line, const std::string& where, int number, Matrix& matrix) {
  matrix.header_line = number;
  for (const auto word : words_of(line)) {
    if (word == "CPU" || word == "NUMA" || (word == "GPU" && !matrix.columns.empty())) break;
    if (std::find(matrix.columns.begin(), matrix.columns.end(), word) != matrix.columns.end())
      corrupt(where, number, fmt::format("column {} is there twice", word));
    matrix.columns.emplace_back(word);
    if (matrix.columns.size() > kMaxColumns) corrupt(where, number, fmt::format("more than {} columns", kMaxColumns));
  }
  for (const std::string name : {"CPU Affinity", "NUMA Affinity", "GPU NUMA ID"})
    if (line.find(name) != line.npos) matrix.rest.push_back(name);
}

void read_row(const std::vector<std::string_view>& words, const std::string& where, int number, Matrix& matrix) {
  const std::string name(words[0]);
  if (std::find(matrix.columns.begin(), matrix.columns.end(), name) == matrix.columns.end())
    corrupt(where, number, fmt::format("row \"{}\" has no column of that name", name));
  const size_t num_cells = matrix.columns.size();
  if (words.size() - 1 < num_cells)
    corrupt(where, number, fmt::format("row {}: expected {} cells, found {}", name, num_cells, words.size() - 1));
  Row row{.line = number};
  for (size_t cell = 1; cell <= num_cells; ++cell) {
    if (is_p2p_word(words[cell]))
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}:{}: this is the output of `nvidia-smi topo -p2p`, which tells what GPUs may do, not "
                              "how they are connected: expected that of `nvidia-smi topo -m`",
                              where, number));
    row.cells.push_back(cell_of(words[cell]));
  }
  row.rest.assign(words.begin() + static_cast<std::ptrdiff_t>(num_cells) + 1, words.end());
  if (!matrix.rows.emplace(name, std::move(row)).second) corrupt(where, number, "row " + name + " is there twice");
}

// "  NIC0: mlx5_0", below "NIC Legend:".
void read_nic_legend(const std::vector<Line>& lines, size_t begin, const std::string& where, Matrix& matrix) {
  bool is_legend = false;
  for (size_t at = begin; at < lines.size(); ++at) {
    const auto [key, value, has_colon] = key_value_of(lines[at].text);
    if (key == "NIC Legend") is_legend = true;
    if (!is_legend || !has_colon || value.empty() || numbered(key, "NIC") < 0) continue;
    if (!matrix.nic_names.emplace(key, value).second)
      corrupt(where, lines[at].number, fmt::format("{} has two names", key));
  }
}

Matrix read_matrix(const std::vector<Line>& lines, const std::string& where) {
  Matrix matrix;
  size_t at = 0;
  while (at < lines.size() && !is_header(words_of(lines[at].text))) ++at;
  if (at == lines.size())
    corrupt(where, 1, "expected the output of `nvidia-smi topo -m`: no line of column names GPU0, GPU1, ...");
  read_header(lines[at].text, where, lines[at].number, matrix);
  for (++at; at < lines.size(); ++at) {
    const auto words = words_of(lines[at].text);
    if (words.empty()) break;  // what follows are legends, in which SYS and all other words occur
    read_row(words, where, lines[at].number, matrix);
  }
  read_nic_legend(lines, at, where, matrix);
  for (const std::string& column : matrix.columns)
    if (numbered(column, "GPU") >= 0 && !matrix.rows.count(column))
      corrupt(where, matrix.header_line, "column " + column + " has no row: the text is cut off");
  return matrix;
}

// Places in the host's list for columns that are GPUs and NICs; -1 for those that cannot be told.
struct Devices {
  std::vector<int> gpus, nics;  // [column]
};

Devices match(const Matrix& matrix, Host& host) {
  Devices devices{std::vector<int>(matrix.columns.size(), -1), std::vector<int>(matrix.columns.size(), -1)};
  const bool knows_nics = !host.nics.empty();
  for (size_t column = 0; column < matrix.columns.size(); ++column) {
    const std::string& name = matrix.columns[column];
    if (const int index = numbered(name, "GPU"); index >= 0) {
      devices.gpus[column] = gpu_of(host, {}, index);
    } else if (const auto legend = matrix.nic_names.find(name); legend != matrix.nic_names.end()) {
      devices.nics[column] = nic_of(host, legend->second, {});
    } else if (numbered(name, "NIC") < 0 || !knows_nics) {  // NIC3 without a legend could be any that is known
      devices.nics[column] = nic_of(host, name, {});
    }
  }
  return devices;
}

void fill_affinity(const Matrix& matrix, const Row& row, const std::string& where, topology::Gpu& gpu, Host& host) {
  if (row.rest.size() != matrix.rest.size()) return;  // which one is missing cannot be told
  std::optional<int64_t> node;
  std::vector<int> cpus;
  for (size_t at = 0; at < row.rest.size(); ++at) {
    const std::string& value = row.rest[at];
    if (matrix.rest[at] == "NUMA Affinity") node = int_of(value);  // "0-1" and N/A are no single node
    if (matrix.rest[at] != "CPU Affinity" || value == "N/A") continue;
    try {
      cpus = topology::parse_cpu_list(value);
    } catch (const Error& error) {
      corrupt(where, row.line, error.what());
    }
  }
  if (!node || *node < 0 || *node > kMaxIndex) return;
  fill(gpu.numa_node, -1, static_cast<int>(*node));
  if (gpu.numa_node == *node) fill(numa_node_of(host, gpu.numa_node).cpus, {}, cpus);
}

}  // namespace

void read_topo_m(std::string_view text, const std::string& where, Inventory& inventory) {
  const Rollback rollback(inventory);
  if (!note_text(inventory, "topo_m", "nvidia-smi topo -m", where, text)) return;
  const std::string plain = without_terminal_codes(text);
  const Matrix matrix = read_matrix(lines_of(plain), where);
  Host& host = host_of(inventory);
  const auto num_gpus = std::count_if(matrix.columns.begin(), matrix.columns.end(),
                                      [](auto& name) { return numbered(name, "GPU") >= 0; });
  if (const std::string why_not = why_not_by_index(host, static_cast<int>(num_gpus)); !why_not.empty()) {
    inventory.facts["text.topo_m"] = {.source = where, .why_unknown = why_not};
    return;
  }
  const Devices devices = match(matrix, host);
  for (size_t from = 0; from < matrix.columns.size(); ++from) {
    const int gpu = devices.gpus[from];
    if (gpu < 0) continue;
    const Row& row = matrix.rows.at(matrix.columns[from]);
    for (size_t to = 0; to < matrix.columns.size(); ++to) {
      const Cell& cell = row.cells[to];
      if (devices.gpus[to] >= 0) fill_gpu_path(host, gpu, devices.gpus[to], cell.path, cell.num_nvlinks);
      if (devices.nics[to] >= 0) fill_nic_path(host, gpu, devices.nics[to], cell.path);
    }
    fill_affinity(matrix, row, where, host.gpus[static_cast<size_t>(gpu)], host);
  }
  infer_nvswitches(host);
}

}  // namespace lane::inventory
