#include "lane/inventory/sysfs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "lane/base/file.h"

namespace lane::inventory {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxBytes = size_t{4} << 20;  // /proc/cpuinfo of 1000 CPUs is 2 MB

std::string why_of(int error) {
  if (error == EACCES || error == EPERM) return "permission denied; run as root";
  return std::strerror(error);
}

bool is_number(std::string_view name) {
  return !name.empty() && name.find_first_not_of("0123456789") == std::string_view::npos;
}

// "mlx5_2" before "mlx5_10": numbers in names count as numbers.
bool comes_before(std::string_view a, std::string_view b) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  while (!a.empty() && !b.empty()) {
    if (is_digit(a[0]) && is_digit(b[0])) {
      const size_t end_a = std::min(a.find_first_not_of("0123456789"), a.size());
      const size_t end_b = std::min(b.find_first_not_of("0123456789"), b.size());
      if (end_a != end_b) return end_a < end_b;
      if (const int order = a.substr(0, end_a).compare(b.substr(0, end_b)); order != 0) return order < 0;
      a.remove_prefix(end_a);
      b.remove_prefix(end_b);
    } else if (a[0] != b[0]) {
      return a[0] < b[0];
    } else {
      a.remove_prefix(1);
      b.remove_prefix(1);
    }
  }
  return a.size() < b.size();
}

}  // namespace

std::string Reading::line() const { return std::string(trim(text)); }

Files::Files(std::string root, std::map<std::string, std::string> why_unreadable)
    : root_(std::move(root)), why_unreadable_(std::move(why_unreadable)) {
  while (!root_.empty() && root_.back() == '/') root_.pop_back();
  std::error_code error;
  if (!root_.empty()) real_root_ = fs::canonical(root_, error).string();
}

Reading Files::read_unseen(const std::string& path) const {
  Reading reading;
  const auto fail = [&](int error) {
    reading.is_absent = error == ENOENT || error == ENOTDIR;
    reading.why = reading.is_absent ? "no such file" : why_of(error);
    if (const auto known = why_unreadable_.find(path); known != why_unreadable_.end()) {
      reading.is_absent = false;
      reading.why = known->second;
    }
    return reading;
  };
  const Fd file(::open((root_ + path).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file) return fail(errno);
  struct stat about {};
  if (::fstat(file.get(), &about) != 0) return fail(errno);
  if (!S_ISREG(about.st_mode)) return fail(S_ISDIR(about.st_mode) ? EISDIR : EINVAL);
  char block[16384];
  while (reading.text.size() < kMaxBytes) {  // files of /proc say that they have 0 bytes: read to the end
    const ssize_t got = ::read(file.get(), block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      reading.text.clear();
      return fail(errno);
    }
    if (got == 0) break;
    reading.text.append(block, static_cast<size_t>(got));
  }
  return reading;
}

Reading Files::read(const std::string& path) {
  const auto [at, is_new] = files_seen_.try_emplace(path);
  if (is_new) at->second = read_unseen(path);
  return at->second;
}

bool Files::exists(const std::string& path) {
  struct stat about {};
  if (::stat((root_ + path).c_str(), &about) != 0) return false;
  if (S_ISDIR(about.st_mode))
    folders_seen_.insert(path);
  else
    marks_seen_.insert(path);
  return true;
}

std::vector<std::string> Files::list(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(root_ + folder, error), end; !error && at != end; at.increment(error))
    names.push_back(at->path().filename().string());
  if (!error) folders_seen_.insert(folder);
  std::sort(names.begin(), names.end(), comes_before);
  return names;
}

std::string Files::resolve(const std::string& path) {
  std::error_code error;
  std::string real = fs::canonical(root_ + path, error).string();
  if (error) return {};
  if (!root_.empty()) {
    if (real.compare(0, real_root_.size(), real_root_) != 0 || real[real_root_.size()] != '/') return {};
    real.erase(0, real_root_.size());
  }
  if (real != path) links_seen_[path] = real;
  folders_seen_.insert(real);
  return real;
}

int Files::find_process(std::string_view name) {
  constexpr size_t kCommLength = 15;  // TASK_COMM_LEN - 1
  name = name.substr(0, kCommLength);
  std::error_code error;
  for (fs::directory_iterator at(root_ + "/proc", error), end; !error && at != end; at.increment(error)) {
    const std::string number = at->path().filename().string();
    const std::string path = "/proc/" + number + "/comm";
    if (!is_number(number)) continue;
    const Reading comm = read_unseen(path);
    if (!comm.ok() || comm.line() != name) continue;
    files_seen_[path] = comm;
    return static_cast<int>(leading_number(number));
  }
  return 0;
}

Fact Files::fact(const std::string& path) {
  const Reading reading = read(path);
  if (!reading.ok()) return {.source = path, .why_unknown = reading.why};
  if (reading.line().empty()) return {.source = path, .why_unknown = "the file is empty"};
  return {.value = reading.line(), .source = path};
}

std::optional<int64_t> whole_number(std::string_view text) {
  text = trim(text);
  const bool is_hex = text.starts_with("0x");
  if (is_hex) text.remove_prefix(2);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, is_hex ? 16 : 10);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

double leading_number(std::string_view text) {
  text = trim(text);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && std::isfinite(value) && value > 0 ? value : 0;
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (size_t end; (end = text.find(at)) != std::string_view::npos; text.remove_prefix(end + 1))
    parts.push_back(text.substr(0, end));
  parts.push_back(text);
  return parts;
}

}  // namespace lane::inventory
