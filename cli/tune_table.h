// What `lane tune` prints and keeps.
#pragma once
#include <string>
#include <vector>

#include "lane/net/tune_all_reduce.h"

namespace lane::cli {

// Where the table goes: `output`, else the file of LANE_TUNING. Error{kInvalidArgument} if there is neither,
// Error{kCorruptData} if something else is there.
std::string tuning_output(const std::string& output);

void save_tuning(const std::string& file, const TuningEntry& entry);

// `chosen`: whose choices the fastest are compared with, "the cost model's choice". Returns at how many sizes that was
// more than 10 % slower.
int print_lines(const net::TuneResult& result, const char* chosen);

}  // namespace lane::cli
