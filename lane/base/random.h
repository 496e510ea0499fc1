#pragma once
#include <cstdint>
#include <string_view>

namespace lane {

// Counter-based random numbers: a value depends on (key, counter) alone, so any rank can make any part of a
// stream without making the rest. The mixer is SplitMix64's (Steele, Lea, Flood: Fast Splittable Pseudorandom
// Number Generators, OOPSLA 2014).
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
constexpr uint64_t random_bits(uint64_t key, uint64_t counter) { return mix64(mix64(key) ^ counter); }

// In the open interval (0, 1): never 0 or 1, so the logarithm of its logarithm is finite.
constexpr double random_uniform(uint64_t key, uint64_t counter) {
  return (static_cast<double>(random_bits(key, counter) >> 12) + 0.5) * 0x1p-52;
}

// FNV-1a: a stable key for a name.
constexpr uint64_t hash_name(std::string_view name, uint64_t hash = 0xcbf29ce484222325ull) {
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

}  // namespace lane
