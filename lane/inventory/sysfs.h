#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "lane/inventory/inventory.h"

namespace lane::inventory {

// What came of reading a small file.
struct Reading {
  std::string text;        // as it is
  std::string why;         // empty: it was read
  bool is_absent = false;  // there is no such file
  bool ok() const { return why.empty(); }
  std::string line() const;  // without blanks and newlines at its ends
};

// The files below a root. It remembers what was asked of it: a bundle holds just that.
class Files {
 public:
  // `why_unreadable`: paths of files that were there, but could not be read, when the copies below `root` were made.
  explicit Files(std::string root, std::map<std::string, std::string> why_unreadable = {});

  const std::string& root() const { return root_; }
  Reading read(const std::string& path);
  bool exists(const std::string& path);
  std::vector<std::string> list(const std::string& folder);  // names, numbers in their order; empty: none or no folder
  // The path without symbolic links, again below the root; empty: it does not exist or leads out.
  std::string resolve(const std::string& path);
  // The number of a process that has one of these names in /proc/<n>/comm, which cuts them to 15 characters; 0: none.
  int find_process(std::string_view name);

  // A Fact with the file's line, or why there is none.
  Fact fact(const std::string& path);

  const std::map<std::string, Reading>& files_seen() const { return files_seen_; }
  const std::set<std::string>& marks_seen() const { return marks_seen_; }  // files that exist; nobody read them
  const std::set<std::string>& folders_seen() const { return folders_seen_; }
  const std::map<std::string, std::string>& links_seen() const { return links_seen_; }  // path: what it resolves to

 private:
  Reading read_unseen(const std::string& path) const;

  std::string root_, real_root_;
  std::map<std::string, std::string> why_unreadable_;
  std::map<std::string, Reading> files_seen_;
  std::set<std::string> marks_seen_, folders_seen_;
  std::map<std::string, std::string> links_seen_;
};

// The number that is all of `text`, but for blanks around it ("16", "0x10de"); nullopt otherwise.
std::optional<int64_t> whole_number(std::string_view text);
// The number that `text` begins with: 32 of "32.0 GT/s PCIe"; 0 if it begins with none or a negative one.
double leading_number(std::string_view text);
std::string_view trim(std::string_view text);
std::vector<std::string_view> split(std::string_view text, char at);
std::vector<std::string_view> split(std::string&& text, char at) = delete;  // the parts would outlive it

}  // namespace lane::inventory
