#pragma once
#include <string>
#include <vector>

#include "lane/net/import.h"
#include "lane/net/import_compare.h"
#include "lane/net/import_health.h"

namespace lane::net {

std::string text_of(const ImportedRun& run);
std::string text_of(const std::vector<HealthCheck>& checks);
std::string text_of(const Comparison& comparison);

Json to_json(const HealthCheck& check);
Json to_json(const Comparison& comparison);

// Times over sizes, a curve for each thing measured; those of `baseline` dashed.
std::string chart_of(const std::vector<ImportedRun>& runs, const std::vector<ImportedRun>& baseline);

// How many things in these runs are wrong by themselves: rejected rows, failures that the tool reported, wrong results.
int count_wrong(const std::vector<ImportedRun>& runs);

}  // namespace lane::net
