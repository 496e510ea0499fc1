#include "tests/support/fake_root.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "lane/base/error.h"

namespace lane::test {
namespace {

namespace fs = std::filesystem;

const fs::path kMachines = fs::path(LANE_SOURCE_DIR) / "tests/inventory/machines";

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string content_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error(ErrorCode::kInvalidArgument, file.string() + ": cannot be read");
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    const char c = text[++i];
    out += c == 't' ? '\t' : c == 'n' ? '\n' : c == 'e' ? '\x1b' : c;
  }
  return out;
}

// Words between blanks; "..." holds blanks.
std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  std::string word;
  bool quoted = false, any = false;
  for (const char c : line + ' ') {
    if (c == '"') {
      quoted = !quoted;
      any = true;
    } else if (c == ' ' && !quoted) {
      if (any) words.push_back(word);
      word.clear();
      any = false;
    } else {
      word += c;
      any = true;
    }
  }
  return words;
}

std::string substitute(const std::string& line, const std::map<std::string, std::string>& values) {
  std::string out;
  for (size_t i = 0; i < line.size();) {
    if (line[i] != '$') {
      out += line[i++];
      continue;
    }
    const bool braces = i + 1 < line.size() && line[i + 1] == '{';
    const size_t begin = i + (braces ? 2 : 1);
    size_t end = begin;
    while (end < line.size() && (std::isalnum(static_cast<unsigned char>(line[end])) || line[end] == '_')) ++end;
    const auto value = values.find(line.substr(begin, end - begin));
    if (value == values.end()) {
      out += line[i++];
      continue;
    }
    out += value->second;
    i = end + (braces ? 1 : 0);
  }
  return out;
}

// "512 40:10004200 14e:1d00"
std::string binary(const std::string& description) {
  const std::vector<std::string> words = words_of(description);
  std::string bytes(std::stoul(words.at(0)), '\0');
  for (size_t w = 1; w < words.size(); ++w) {
    const size_t colon = words[w].find(':');
    size_t at = std::stoul(words[w].substr(0, colon), nullptr, 16);
    for (size_t i = colon + 1; i + 1 < words[w].size(); i += 2, ++at)
      if (at < bytes.size()) bytes[at] = static_cast<char>(std::stoul(words[w].substr(i, 2), nullptr, 16));
  }
  return bytes;
}

}  // namespace

FakeRoot::FakeRoot(const std::string& machine, const std::string& overlay) {
  // Thousands of small files: in memory where that is possible. (Other tests look there for what ranks left behind,
  // which has the project's name.)
  const fs::path folder = ::access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path();
  std::string name = (folder / "fake_root_XXXXXX").string();
  if (!::mkdtemp(name.data())) throw_system_error("making a temporary folder");
  path_ = name;
  add(content_of(kMachines / (machine + ".tree")));
  add(overlay);
}

FakeRoot::~FakeRoot() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void FakeRoot::add(const std::string& lines) {
  add_lines(lines_of(lines), "tree");
  fs::path last;
  for (const auto& [path, content] : pending_) {
    const fs::path file = fs::path(path_) / path;
    if (file.parent_path() != last) fs::create_directories(last = file.parent_path());
    std::ofstream(file, std::ios::binary) << content;
  }
  pending_.clear();
}

std::string FakeRoot::read(const std::string& path) const { return content_of(path_ + "/" + path); }

std::vector<std::string> FakeRoot::machines() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kMachines))
    if (entry.path().extension() == ".tree") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

void FakeRoot::write(const std::string& path, const std::string& content, bool append) {
  const auto [at, is_new] = pending_.try_emplace(path);
  const fs::path file = fs::path(path_) / path;
  if (is_new && append && fs::exists(file)) at->second = content_of(file);
  if (is_new && !append) fs::remove_all(file);  // it may be a link
  at->second = append ? at->second + content : content;
}

void FakeRoot::remove(const std::string& path) {
  for (auto it = pending_.lower_bound(path); it != pending_.end() && it->first.rfind(path, 0) == 0;)
    it = it->first.size() == path.size() || it->first[path.size()] == '/' ? pending_.erase(it) : std::next(it);
  fs::remove_all(fs::path(path_) / path);
}

void FakeRoot::chain(const std::string& at, const std::string& where) {
  for (size_t slash = at.find('/'); slash != std::string::npos;) {
    const size_t next = at.find('/', slash + 1);
    const std::string above = at.substr(0, slash), bridge = at.substr(slash + 1, next - slash - 1);
    const std::string file = "sys/devices/" + above + "/" + bridge + "/class";
    if (!pending_.count(file) && !fs::exists(fs::path(path_) / file)) call("@bridge " + above + " " + bridge, where);
    slash = next;
  }
}

void FakeRoot::call(const std::string& line, const std::string& where) {
  const std::vector<std::string> words = words_of(line.substr(1));
  if (words.empty()) throw Error(ErrorCode::kCorruptData, where + ": @ without a name");
  if (words[0] == "include") return add_lines(lines_of(content_of(kMachines / words.at(1))), words.at(1));
  if (words[0] == "chain") return chain(words.at(1), where);
  const auto found = parts_.find(words[0]);
  if (found == parts_.end()) throw Error(ErrorCode::kCorruptData, where + ": no part \"" + words[0] + "\"");
  const Part part = found->second;
  std::map<std::string, std::string> values(part.parameters.begin(), part.parameters.end());
  size_t next = 0;
  for (size_t w = 1; w < words.size(); ++w) {
    const size_t equals = words[w].find('=');
    if (equals != std::string::npos && values.count(words[w].substr(0, equals)))
      values[words[w].substr(0, equals)] = words[w].substr(equals + 1);
    else if (next < part.parameters.size())
      values[part.parameters[next++].first] = words[w];
    else
      throw Error(ErrorCode::kCorruptData, where + ": too many words: " + line);
  }
  std::vector<std::string> lines;
  for (const std::string& text : part.lines) lines.push_back(substitute(text, values));
  add_lines(lines, where + ", @" + words[0]);
}

void FakeRoot::add_lines(const std::vector<std::string>& lines, const std::string& where) {
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    const std::string here = where + ":" + std::to_string(i + 1);
    if (line.empty() || line[0] == '#') continue;
    if (line.rfind("@part ", 0) == 0) {
      const std::vector<std::string> words = words_of(line);
      Part part;
      for (size_t w = 2; w < words.size(); ++w) {
        const size_t equals = std::min(words[w].find('='), words[w].size());
        part.parameters.emplace_back(words[w].substr(0, equals),
                                     equals < words[w].size() ? words[w].substr(equals + 1) : std::string());
      }
      for (++i; i < lines.size() && lines[i] != "@end"; ++i) part.lines.push_back(lines[i]);
      parts_[words.at(1)] = part;
      continue;
    }
    if (line[0] == '@') {
      call(line, here);
      continue;
    }
    const size_t space = std::min(line.find(' '), line.size());
    const std::string path = line.substr(0, space);
    const size_t after = std::min(line.find(' ', std::min(space + 1, line.size())), line.size());
    const std::string sign = space < line.size() ? line.substr(space + 1, after - space - 1) : std::string();
    const std::string rest = after < line.size() ? line.substr(after + 1) : std::string();
    if (sign == "=" || sign == "+=") {
      write(path, unescape(rest) + "\n", sign == "+=");
    } else if (sign == "<<" || sign == "+<<") {
      std::string block;
      for (++i; i < lines.size() && lines[i] != ">>"; ++i) block += unescape(lines[i]) + "\n";
      write(path, block, sign == "+<<");
    } else if (sign == "~") {
      write(path, binary(rest), false);
    } else if (sign == "->") {
      const fs::path link = fs::path(path_) / path;
      fs::create_directories(link.parent_path());
      remove(path);
      fs::create_symlink(rest, link);
    } else if (sign == "!") {
      remove(path);
    } else {
      throw Error(ErrorCode::kCorruptData, here + ": \"" + line + "\": expected = += << +<< ~ -> or !");
    }
  }
}

}  // namespace lane::test
