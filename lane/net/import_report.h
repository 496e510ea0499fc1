#pragma once
#include <string>
#include <vector>

#include "lane/net/import.h"
#include "lane/net/import_compare.h"
#include "lane/net/import_health.h"

namespace lane::net {

// What this run forced NCCL to: "NCCL_ALGO=Ring NCCL_PROTO=LL"; empty if nothing, or if the tool does not tell.
std::string forced_settings(const ImportedRun& run);

std::string text_of(const ImportedRun& run);
// Many runs: one line each with what is wrong with it, then the medians of those that forced the same.
std::string summary_of(const std::vector<ImportedRun>& runs);
std::string text_of(const std::vector<HealthCheck>& checks);
std::string text_of(const Comparison& comparison);

Json to_json(const HealthCheck& check);
Json to_json(const Comparison& comparison);

// Times over sizes, a curve for each thing measured; those of `baseline` dashed.
std::string chart_of(const std::vector<ImportedRun>& runs, const std::vector<ImportedRun>& baseline);

// How many things in these runs are wrong by themselves: rejected rows, failures that the tool reported, wrong results.
int count_wrong(const std::vector<ImportedRun>& runs);

}  // namespace lane::net
