#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace lane {

// "2G", "512M", "1.5GiB", "4096": a number of bytes. K, M, G, T are powers of 1024, k is 1000 as in vLLM's flags.
// Throws Error{kInvalidArgument} that repeats the text and names `what`.
int64_t parse_bytes(std::string_view text, std::string_view what);

std::string format_bytes(double bytes);       // "1.50 GiB"
std::string format_rate(double bytes_per_s);  // "38.2 GB/s": rates are decimal
std::string format_duration(double seconds);  // "12.3 µs", "4.56 ms", "1.20 s", "3 min 20 s"
std::string format_count(int64_t count);      // "1,234,567"

}  // namespace lane
