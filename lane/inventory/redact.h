#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace lane::inventory {

// The content of a file as it may go into a bundle; nullopt: it is of no use there. What is taken out: serial numbers,
// UUIDs, GUIDs, MAC and IP addresses, user names, command lines, ids of containers.
std::optional<std::string> redacted(const std::string& path, const std::string& content);

// Outputs of tools and other free text: what looks like one of the above is masked, all else stays as it is.
std::string without_identities(std::string_view text);

}  // namespace lane::inventory
