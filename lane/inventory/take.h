#pragma once
#include "lane/inventory/calls.h"
#include "lane/inventory/sysfs.h"

namespace lane::inventory {

inline constexpr const char* kCallsFile = "/lane-bundle.json";  // what a bundle holds for that which no file tells

// Of this host for an empty root, else what its lane-bundle.json says; nothing if it has none.
HostCalls calls_of(const std::string& root);

Inventory take(Files& files, const HostCalls& calls, const TextInputs& texts);

}  // namespace lane::inventory
