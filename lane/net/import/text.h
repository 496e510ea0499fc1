// Words and lines of logs, as launchers leave them.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lane::net {

struct Word {
  std::string_view text;
  size_t end = 0;  // column after its last character
};
std::vector<Word> words_of(std::string_view line);

// A number as it was printed, with half a unit of its last digit: what rounding may hide. "1.2e+05" is 120000 +- 5000.
struct PrintedNumber {
  double value = 0, half_unit = 0;
  double low() const { return value - half_unit; }
  double high() const { return value + half_unit; }
};
std::optional<PrintedNumber> printed_number(std::string_view text);
std::optional<int64_t> whole_number(std::string_view text);

// A line without its launcher's prefix. `source` tells writers apart whose lines may be mixed: "1,0" of
// "[1,0]<stdout>:", "0" of srun's "0: " and MPICH's "[0] ". Dates that kubectl or mpirun put in front are dropped.
// MPICH labels each write, not each line: its labels go wherever they are.
struct SourceLine {
  std::string source;
  std::string text;
  int number = 0;  // in the file, from 1
};
std::vector<SourceLine> lines_of(std::string_view text);

// Where a message of NCCL's log begins in `line` ("node01:4711:4712 [0] NCCL INFO ..."), npos if there is none. NCCL
// writes into the same stream as nccl-tests, in the middle of its rows.
size_t find_nccl_log(std::string_view line);

bool starts_with(std::string_view text, std::string_view prefix);
bool contains(std::string_view text, std::string_view part);
std::string_view trimmed(std::string_view text);
std::string lower(std::string_view text);

}  // namespace lane::net
