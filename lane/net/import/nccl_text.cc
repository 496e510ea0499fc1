// nccl-tests' tables. The header line decides what a column is; the layouts so far:
//   to 2019            bytes N type [op|root]            time(ms) algbw busbw res
//   2019 - Aug 2022    size count type [redop|root]      time algbw busbw error
//   Sept 2022 on       size count type redop root        time algbw busbw #wrong
//   with -I 1 (2026)                                     ... i_min i_max i_p99 i_cv%
// each with the columns from time on once or twice: out of place, in place. A side that did not run is blank.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <set>

#include "lane/net/import/readers.h"

namespace lane::net {
namespace {

constexpr size_t kMostNotes = 8, kMostChosen = 4096, kLongestRow = 4096;

struct Column {
  std::string name;
  size_t end = 0;
};

struct Layout {
  std::vector<Column> columns;
  size_t num_leading = 0, num_side = 0, num_sides = 0;
  double time_to_us = 1;
  bool has_timestamp = false;

  size_t full() const { return num_leading + num_side * num_sides; }
};

std::string column_name(std::string_view printed) {
  const std::string name = lower(printed);
  if (name == "bytes") return "size";
  if (name == "n") return "count";
  if (name == "op") return "redop";
  if (name == "cputime") return "time";
  if (name == "#wrong") return "wrong";  // "res" and "error" of before are differences: whether they matter is not said
  return name;
}

// The header line of a table, whether or not its '#' survived.
std::optional<Layout> layout_of(std::string_view line) {
  std::string text(line);
  const size_t first = text.find_first_not_of(" \t");
  if (first != std::string::npos && text[first] == '#') text[first] = ' ';
  const std::vector<Word> words = words_of(text);
  if (words.size() < 6 || (words[0].text != "size" && words[0].text != "bytes")) return std::nullopt;
  Layout layout;
  if (words[0].text == "bytes") layout.time_to_us = 1000;  // the first layout printed milliseconds
  for (const Word& word : words) {
    if (word.text == "timestamp") {
      layout.has_timestamp = true;
      break;
    }
    layout.columns.push_back({column_name(word.text), word.end});
    if (layout.columns.back().name == "time") ++layout.num_sides;
    if (layout.num_sides == 0) ++layout.num_leading;
  }
  if (layout.num_sides == 0 || layout.num_sides > 2) return std::nullopt;
  const size_t of_sides = layout.columns.size() - layout.num_leading;
  layout.num_side = of_sides / layout.num_sides;
  if (layout.num_side * layout.num_sides != of_sides || layout.num_side < 3) return std::nullopt;
  for (size_t i = 0; i < layout.num_side && layout.num_sides == 2; ++i)
    if (layout.columns[layout.num_leading + i].name != layout.columns[layout.num_leading + layout.num_side + i].name)
      return std::nullopt;
  return layout;
}

// "      4096   1024   float ...": two whole numbers, then a type's name.
bool starts_row(const std::vector<Word>& words) {
  return words.size() >= 3 && whole_number(words[0].text).value_or(-1) >= 0 &&
         whole_number(words[1].text).value_or(-1) >= 0 && !printed_number(words[2].text) &&
         words[2].text.find_first_of(":[]<>=") == std::string_view::npos;
}

bool is_value(std::string_view text) { return text == "N/A" || printed_number(text).has_value(); }

bool is_date(std::string_view text) { return text.size() == 10 && text[4] == '-' && text[7] == '-'; }

// Those of `more` that are not there yet, as far as anyone would read.
void add_new(std::vector<std::string>& to, const std::vector<std::string>& more) {
  for (const std::string& each : more)
    if (to.size() < kMostNotes && std::find(to.begin(), to.end(), each) == to.end()) to.push_back(each);
}

// One writer's lines.
class Table {
 public:
  Table(const std::string& where, const ImportOptions& options, std::vector<ImportedRun>& runs)
      : where_(where), options_(options), runs_(runs) {}

  void take(const SourceLine& line) {
    std::string_view text = line.text;
    const size_t log = find_nccl_log(text);
    if (log != std::string_view::npos) {
      take_log(text.substr(log));
      text = text.substr(0, log);
      if (trimmed(text).empty()) return;
      const bool is_new = starts_row(words_of(text));
      if (is_new || !pending_.empty()) return take_row_text(text, line.number, is_new, true);
    }
    const std::string_view inside = trimmed(text);
    if (inside.empty() || take_failure(text, line.number)) return;
    if (const auto layout = layout_of(text)) return begin_table(*layout);
    const std::vector<Word> words = words_of(text);
    if (starts_row(words) && layout_) return take_row_text(text, line.number, true, false);
    const bool may_continue = std::all_of(words.begin(), words.end(), [](const Word& word) {
      return is_value(word.text) || is_date(word.text) || contains(word.text, ":");
    });
    if (!pending_.empty() && may_continue && inside[0] != '#') return take_row_text(text, line.number, false, was_cut_);
    take_comment(inside);
  }

  void finish() {
    flush_pending();
    if (layout_) {
      run_.source = where_, run_.tool = "nccl-tests";
      find_ranks();
      if (!has_footer_) run_.notes.push_back("the table has no summary: the test did not come to its end");
      check_rows(run_, std::move(rows_), options_);
      runs_.push_back(std::move(run_));
    } else {  // a rank that prints no table may still have something to say
      std::move(run_.notes.begin(), run_.notes.end(), std::back_inserter(said_.notes));
      std::move(run_.failures.begin(), run_.failures.end(), std::back_inserter(said_.failures));
      std::move(run_.chosen.begin(), run_.chosen.end(), std::back_inserter(said_.chosen));
    }
    run_ = {}, rows_ = {}, layout_.reset(), hosts_ = {}, ranks_of_group_ = {}, collective_.clear();
    has_footer_ = false;
  }

  const ImportedRun& said() const { return said_; }

 private:
  void begin_table(const Layout& layout) {
    flush_pending();
    if (layout_ && !rows_.empty()) finish();
    layout_ = layout;
  }

  // nccl-tests tells a failure in the middle of a row. Whether the line does.
  bool take_failure(std::string_view text, int number) {
    for (const char* words : {"Test NCCL failure", "Test CUDA failure", ": Test failure "}) {
      const size_t at = text.find(words);
      if (at == std::string_view::npos) continue;
      run_.failures.push_back(std::string(trimmed(text.substr(at + (*words == ':' ? 2 : 0)).substr(0, 200))));
      if (!pending_.empty() || starts_row(words_of(text)))
        run_.rejected.push_back({pending_.empty() ? number : pending_line_, "the test failed in this row"});
      pending_.clear();
      return true;
    }
    return false;
  }

  void begin_preamble() {
    if (layout_) finish();
  }

  void take_log(std::string_view log) {
    if (auto chosen = chosen_algorithm(log)) {
      if (run_.chosen.size() < kMostChosen &&
          std::find(run_.chosen.begin(), run_.chosen.end(), *chosen) == run_.chosen.end())
        run_.chosen.push_back(std::move(*chosen));
      return;
    }
    constexpr std::string_view kWarn = "NCCL WARN ";
    const size_t warn = log.find(kWarn);
    if (warn == std::string_view::npos) return;
    const std::string note = "NCCL warned: " + std::string(trimmed(log.substr(warn + kWarn.size())).substr(0, 200));
    const bool is_known = std::find(run_.notes.begin(), run_.notes.end(), note) != run_.notes.end();
    if (run_.notes.size() < kMostNotes && !is_known) run_.notes.push_back(note);
  }

  void take_comment(std::string_view text) {
    if (text[0] == '#') text = trimmed(text.substr(1));
    if (starts_with(text, "nccl-tests version ")) return take_version(text);
    constexpr std::string_view kStarting = "Collective test starting:";
    if (starts_with(text, kStarting)) {
      begin_preamble();
      collective_ = collective_of_program(trimmed(text.substr(kStarting.size())));
    } else if (starts_with(text, "nThread ")) {
      begin_preamble();
    } else if (starts_with(text, "Rank ")) {
      take_device(text);
    } else if (starts_with(text, "NCCL version ")) {
      run_.nccl_version = std::string(words_of(text)[2].text).substr(0, 40);
    } else if (starts_with(text, "Out of bounds values")) {
      has_footer_ = true;
      flush_pending();
      if (contains(text, "FAILED")) run_.failures.push_back(std::string(text).substr(0, 200));
    } else if (starts_with(text, "Avg bus bandwidth") && contains(text, "FAILED")) {
      run_.failures.push_back(std::string(text).substr(0, 200));
    } else if (starts_with(text, "error: ")) {
      run_.failures.push_back(std::string(text).substr(0, 200));
    }
  }

  void take_version(std::string_view text) {
    begin_preamble();
    const std::vector<Word> words = words_of(text);
    if (words.size() > 2) run_.version = std::string(words[2].text).substr(0, 40);
    constexpr std::string_view kLibrary = "nccl-library=";
    for (const Word& word : words)
      if (starts_with(word.text, kLibrary))
        run_.nccl_version = nccl_version_text(whole_number(word.text.substr(kLibrary.size())).value_or(0));
  }

  // "Rank  0 Group  0 Pid  12345 on     node01 device  0 [0000:18:00] NVIDIA H100 80GB HBM3"
  void take_device(std::string_view text) {
    if (layout_) finish();  // the devices of the next test, of which only these lines are left
    const std::vector<Word> words = words_of(text);
    int64_t group = 0;
    for (size_t i = 0; i + 1 < words.size(); ++i) {
      if (words[i].text == "Group") group = whole_number(words[i + 1].text).value_or(0);
      if (words[i].text == "on" && hosts_.size() < 1'000'000) hosts_.insert(std::string(words[i + 1].text));
      if (words[i].text == "device" && i + 3 < words.size()) {
        const std::string gpu(trimmed(text.substr(words[i + 2].end)));
        if (std::find(run_.gpus.begin(), run_.gpus.end(), gpu) == run_.gpus.end() && run_.gpus.size() < 64)
          run_.gpus.push_back(gpu);
        break;
      }
    }
    if (words.size() > 1 && whole_number(words[1].text)) ranks_of_group_[group].insert(*whole_number(words[1].text));
  }

  // With NCCL_TESTS_SPLIT each group is a communicator of its own, all of them at work at once.
  void find_ranks() {
    if (ranks_of_group_.empty()) return;
    run_.num_ranks = static_cast<int>(ranks_of_group_.begin()->second.size());
    run_.num_nodes = static_cast<int>(hosts_.size());
    if (ranks_of_group_.size() > 1) {
      run_.notes.push_back(
          fmt::format("{} groups of ranks at once (NCCL_TESTS_SPLIT); ranks are those of one", ranks_of_group_.size()));
      run_.num_nodes = 0;  // of one group: not said
    }
  }

  // Text of a row, which log messages may have torn into several pieces.
  void take_row_text(std::string_view text, int number, bool is_new, bool is_cut) {
    if (!layout_) return;
    if (is_new) {
      flush_pending();
      pending_ = std::string(text), pending_line_ = number;
    } else {
      pending_ += text;
    }
    was_cut_ = is_cut;
    const std::vector<Word> words = row_words();
    const bool is_whole =
        words.size() >= layout_->full() || (words.size() == layout_->num_leading + layout_->num_side && !was_cut_);
    if (is_whole || pending_.size() > kLongestRow) flush_pending();
  }

  std::vector<Word> row_words() const {
    std::vector<Word> words = words_of(pending_);
    for (size_t i = 0; i + 1 < words.size(); ++i)
      if (is_date(words[i].text)) words.resize(i);
    return words;
  }

  void flush_pending() {
    if (pending_.empty()) return;
    if (const std::string reason = take_row(row_words()); !reason.empty())
      run_.rejected.push_back({pending_line_, reason});
    pending_.clear();
    was_cut_ = false;
  }

  // Why not, or empty.
  std::string take_row(const std::vector<Word>& words) {
    const Layout& layout = *layout_;
    const size_t one_side = layout.num_leading + layout.num_side;
    if (words.size() == layout.full()) {
      for (size_t side = 0; side < layout.num_sides; ++side)
        if (std::string reason = take_side(words, layout.num_leading + side * layout.num_side, side); !reason.empty())
          return reason;
      return "";
    }
    if (words.size() == one_side) {  // the other is blank; which one it is tells the place
      const size_t end = words[layout.num_leading].end;
      const auto distance = [&](size_t side) {
        const size_t header = layout.columns[layout.num_leading + side * layout.num_side].end;
        return header > end ? header - end : end - header;
      };
      return take_side(words, layout.num_leading, distance(1) < distance(0) ? 1 : 0);
    }
    return fmt::format("{} columns{}; the header has {}", words.size(), was_cut_ ? ", cut by log messages" : "",
                       layout.full());
  }

  std::string take_side(const std::vector<Word>& words, size_t begin, size_t side) {
    const Layout& layout = *layout_;
    PrintedRow printed;
    ImportedRow& row = printed.row;
    row.line = pending_line_;
    row.test = collective_;
    row.in_place = side == 1;
    for (size_t i = 0; i < layout.num_leading; ++i) {
      const std::string& name = layout.columns[i].name;
      if (name == "size") row.bytes = whole_number(words[i].text).value_or(0);
      if (name == "count") row.count = whole_number(words[i].text).value_or(0);
      if (name == "type") row.type = std::string(words[i].text).substr(0, 40);
      if (name == "redop") row.redop = std::string(words[i].text).substr(0, 40);
    }
    for (size_t i = 0; i < layout.num_side; ++i) {
      const std::string& name = layout.columns[layout.num_leading + i].name;
      const std::string_view text = words[begin + i].text;
      const auto number = printed_number(text);
      if (name == "wrong") {
        row.num_wrong = text == "N/A" || !number ? -1 : static_cast<int64_t>(std::clamp(number->value, 0.0, 9e15));
        continue;
      }
      if (name == "res" || name == "error") continue;
      if (!number || number->value < 0) return fmt::format("column {} is {}: expected a number", name, in_quotes(text));
      if (name == "time") {
        printed.time_us = {number->value * layout.time_to_us, number->half_unit * layout.time_to_us};
        row.time_us = printed.time_us.value;
      }
      if (name == "algbw") printed.algbw = *number;
      if (name == "busbw") printed.busbw = *number;
      if (name == "i_min") row.min_us = number->value;
      if (name == "i_max") row.max_us = number->value;
      if (name == "i_p99") row.p99_us = number->value;
    }
    rows_.push_back(std::move(printed));
    return "";
  }

  const std::string& where_;
  const ImportOptions& options_;
  std::vector<ImportedRun>& runs_;

  std::optional<Layout> layout_;
  ImportedRun run_, said_;  // said_: outside of tables
  std::vector<PrintedRow> rows_;
  std::set<std::string> hosts_;
  std::map<int64_t, std::set<int64_t>> ranks_of_group_;
  std::string collective_, pending_;
  int pending_line_ = 0;
  bool was_cut_ = false, has_footer_ = false;
};

}  // namespace

std::vector<ImportedRun> read_nccl_text(std::string_view text, const std::string& where, const ImportOptions& options) {
  std::vector<ImportedRun> runs;
  std::map<std::string, std::unique_ptr<Table>> tables;  // by writer: their lines may be mixed
  for (const SourceLine& line : lines_of(text)) {
    std::unique_ptr<Table>& table = tables[line.source];
    if (!table) table = std::make_unique<Table>(where, options, runs);
    table->take(line);
  }
  for (const auto& [source, table] : tables) table->finish();
  for (const auto& [source, table] : tables) {
    const ImportedRun& said = table->said();
    if (runs.empty() && !(said.failures.empty() && said.chosen.empty()))
      runs.push_back({.source = where, .tool = "nccl-tests"});
    if (runs.empty()) continue;
    add_new(runs[0].notes, said.notes);
    add_new(runs[0].failures, said.failures);
    runs[0].chosen.insert(runs[0].chosen.end(), said.chosen.begin(), said.chosen.end());
  }
  return runs;
}

}  // namespace lane::net
