#pragma once
#include <gtest/gtest.h>

#include <string>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/inventory/inventory.h"

namespace lane::inventory {

using Reader = void (*)(std::string_view, const std::string&, Inventory&);

inline std::string sample(const std::string& name) {
  return read_file(std::string(LANE_SOURCE_DIR) + "/tests/inventory/text/" + name);
}

inline Inventory read_sample(Reader reader, const std::string& name) {
  Inventory inventory;
  reader(sample(name), name, inventory);
  return inventory;
}

inline const topology::Host& host(const Inventory& inventory) { return inventory.topology.hosts.at(0); }

// What a fact says; "?" if it is unknown, "-" if it is not there.
inline std::string fact(const Inventory& inventory, const std::string& key) {
  const Fact* found = inventory.find(key);
  return !found ? "-" : found->known() ? found->value : "?";
}

// The message of the error that `reader` throws at `text`, called dump.txt; empty if it throws none.
inline std::string error_of(Reader reader, const std::string& text) {
  Inventory inventory;
  try {
    reader(text, "dump.txt", inventory);
  } catch (const Error& error) {
    EXPECT_TRUE(error.code() == ErrorCode::kCorruptData || error.code() == ErrorCode::kInvalidArgument) << error.what();
    return error.what();
  }
  return {};
}

// The text with one piece of it replaced; it must be there.
inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

// For each GPU the names of the NICs that are as near as `furthest`: "mlx5_0 mlx5_3".
inline std::vector<std::string> nics_near(const topology::Host& host, topology::Path furthest) {
  std::vector<std::string> result;
  for (const auto& row : host.gpu_to_nic) {
    std::string names;
    for (size_t nic = 0; nic < row.size(); ++nic)
      if (row[nic] <= furthest) names += (names.empty() ? "" : " ") + host.nics[nic].name;
    result.push_back(names);
  }
  return result;
}

}  // namespace lane::inventory
