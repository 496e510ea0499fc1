// That the descriptions of machines make the files that they speak of.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "tests/support/fake_root.h"

namespace lane::inventory {
namespace {

using test::FakeRoot;

TEST(Machines, EachMakesATreeThatGoesAway) {
  std::string gone;
  for (const std::string& name : FakeRoot::machines()) {
    SCOPED_TRACE(name);
    const FakeRoot root(name);
    gone = root.path();
    EXPECT_FALSE(root.read("proc/sys/kernel/hostname").empty());
    for (const auto& device : std::filesystem::directory_iterator(root.path() + "/sys/bus/pci/devices"))
      EXPECT_TRUE(std::filesystem::exists(device.path() / "class")) << device.path() << ": a link that leads nowhere";
  }
  EXPECT_FALSE(std::filesystem::exists(gone));
  EXPECT_EQ(FakeRoot::machines().size(), 16u);
}

TEST(Machines, LanguageOfTrees) {
  FakeRoot root("laptop",
                "@part two a b=x\nd/$a = ${b}1\nd/$a += \\tmore\n@end\n@two f\n@two g b=\"y z\"\n"
                "block <<\n# no comment\n\n\\e[4m\n>>\nbin ~ 4 1:ff02\nlink -> block\nproc !\n");
  EXPECT_EQ(root.read("d/f"), "x1\n\tmore\n");
  EXPECT_EQ(root.read("d/g"), "y z1\n\tmore\n");
  EXPECT_EQ(root.read("link"), "# no comment\n\n\x1b[4m\n");
  EXPECT_EQ(root.read("bin"), std::string("\0\xff\x02\0", 4));
  EXPECT_FALSE(std::filesystem::exists(root.path() + "/proc"));
  EXPECT_ANY_THROW(root.add("@nothing"));
  EXPECT_ANY_THROW(root.add("only words"));
}

TEST(Machines, NvidiaSmisTableIsAsTheToolWritesIt) {
  const std::string table = FakeRoot("h200x4_vm").read("text/topo_m.txt");
  EXPECT_EQ(table.rfind("\t\x1b[4mGPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
                        "GPU0\t X \tNV18\tNV18\tNV18\t0-63\t0\t\tN/A\n",
                        0),
            0u)
      << table;
}

}  // namespace
}  // namespace lane::inventory
