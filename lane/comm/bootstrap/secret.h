#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace lane {

// How two ends of a connection prove to each other that they know the job's secret without saying it: each answers the
// other's fresh random number with HMAC-SHA256 under it (RFC 2104), so that nothing that was overheard is of use later.
using Bytes32 = std::array<unsigned char, 32>;

Bytes32 random_bytes();
Bytes32 hmac(std::string_view key, std::initializer_list<std::string_view> parts);
Bytes32 hmac(const Bytes32& key, std::initializer_list<std::string_view> parts);
// In a time that does not depend on where they differ.
bool equal(const Bytes32& a, const Bytes32& b);

inline std::string_view view(const Bytes32& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace lane
