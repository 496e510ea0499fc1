// The formats, each read by one function. All throw Error{kCorruptData} only; what is not a result they leave out.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/net/import.h"
#include "lane/net/import/text.h"

namespace lane::net {

// A row as printed, before it is checked.
struct PrintedRow {
  ImportedRow row;
  PrintedNumber time_us, algbw, busbw;  // in us and GB/s
};

// Fills in what the table itself does not say, then checks each row and takes or rejects it.
//   algbw = bytes / time          busbw = algbw x bus_factor(collective, ranks)
// Before June 2020 (nccl-tests ec1b5e2) algbw of all_gather and reduce_scatter was what is now their busbw.
void check_rows(ImportedRun& run, std::vector<PrintedRow> rows, const ImportOptions& options);

// "all_reduce" of "./build/all_reduce_perf_mpi"; empty if it is none of nccl-tests' programs.
std::string collective_of_program(std::string_view program);

// "2.30.7" of NCCL_VERSION_CODE 23007 (before 2.9: 2804 is 2.8.4).
std::string nccl_version_text(int64_t code);

// True for variables that NCCL, UCX, libfabric or Slurm read.
bool is_kept_variable(std::string_view name);

// What a line of NCCL's TUNING log chose, if it is one.
std::optional<ChosenAlgorithm> chosen_algorithm(std::string_view message);

std::vector<ImportedRun> read_nccl_text(std::string_view text, const std::string& where, const ImportOptions& options);
std::vector<ImportedRun> read_nccl_json(std::string_view text, const std::string& where, const ImportOptions& options);
std::vector<ImportedRun> read_osu(std::string_view text, const std::string& where, const ImportOptions& options);
std::vector<ImportedRun> read_perftest_text(std::string_view text, const std::string& where);
std::vector<ImportedRun> read_perftest_json(std::string_view text, const std::string& where);
std::vector<ImportedRun> read_nvbandwidth_text(std::string_view text, const std::string& where);
std::vector<ImportedRun> read_nvbandwidth_json(std::string_view text, const std::string& where);
std::vector<ImportedRun> read_lane_bench(std::string_view text, const std::string& where);
std::vector<ImportedRun> read_lane_import(std::string_view text, const std::string& where);

// JSON that its writer did not finish, or wrote by hand: nan and inf become strings, commas before a closing bracket
// go, what is open at the end is closed. `repaired` says whether anything was done.
Json parse_torn_json(std::string_view text, const std::string& where, bool* repaired);

}  // namespace lane::net
