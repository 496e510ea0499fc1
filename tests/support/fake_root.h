#pragma once
#include <map>
#include <string>
#include <vector>

namespace lane::test {

// A temporary folder with the files of a machine, made from tests/inventory/machines/<machine>.tree; it goes away with
// the object. A .tree file has one line per file:
//
//   path = content              a newline is added; \t \n \e \\ are what they are in C
//   path += content             appended
//   path << ... >>              the lines between, until a line of ">>"; path +<< appends
//   path ~ 512 40:10004200 ...  binary: its size, then bytes in hex at offsets in hex
//   path -> target              a symbolic link
//   path !                      removes a file or a folder
//   @include file               relative to tests/inventory/machines
//   @part name a b c=3 ... @end a macro: $a, $b, ${c} in its lines stand for what it is called with
//   @name 1 2 "x y" c=4         calls it
//   @chain pci0000:15/0000:15:01.0/0000:16:00.0   calls @bridge for each PCI bridge of the chain that is not there yet
//   # ...                       a comment
class FakeRoot {
 public:
  explicit FakeRoot(const std::string& machine, const std::string& overlay = {});  // overlay: more lines
  ~FakeRoot();
  FakeRoot(const FakeRoot&) = delete;

  const std::string& path() const { return path_; }
  void add(const std::string& lines);  // in the language above, with the parts that the machine knows
  std::string read(const std::string& path) const;

  static std::vector<std::string> machines();  // the names of all, sorted

 private:
  struct Part {
    std::vector<std::pair<std::string, std::string>> parameters;  // name, default ("" for none)
    std::vector<std::string> lines;
  };
  void add_lines(const std::vector<std::string>& lines, const std::string& where);
  void call(const std::string& line, const std::string& where);
  void chain(const std::string& at, const std::string& where);
  void remove(const std::string& path);
  void write(const std::string& path, const std::string& content, bool append);

  std::string path_;
  std::map<std::string, Part> parts_;
  std::map<std::string, std::string> pending_;  // content by path, until add() ends
};

}  // namespace lane::test
