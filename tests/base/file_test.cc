#include "lane/base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "lane/base/error.h"

namespace lane {
namespace {

class FileTest : public testing::Test {
 protected:
  std::string path_ = testing::TempDir() + "lane_file_test_" + std::to_string(::getpid());
  void TearDown() override { std::filesystem::remove(path_); }
};

TEST_F(FileTest, WhatIsWrittenIsRead) {
  const std::string content("bytes \0 and more", 16);
  write_file(path_, content);
  EXPECT_EQ(read_file(path_), content);
  const ReadFile file(path_);
  EXPECT_EQ(file.size(), 16);
  char middle[5];
  file.read(2, middle, 5);
  EXPECT_EQ(std::string(middle, 5), content.substr(2, 5));
}

TEST_F(FileTest, ReadingPastTheEndIsAnErrorThatNamesTheFile) {
  write_file(path_, "short");
  const ReadFile file(path_);
  char out[8];
  try {
    file.read(1, out, 8);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
    EXPECT_NE(std::string(error.what()).find(path_), std::string::npos);
  }
}

TEST_F(FileTest, TooLargeMissingAndFoldersAreErrors) {
  write_file(path_, "0123456789");
  EXPECT_THROW(read_file(path_, 9), Error);
  EXPECT_THROW(ReadFile(path_ + ".missing"), Error);
  EXPECT_THROW(ReadFile{testing::TempDir()}, Error);
}

TEST_F(FileTest, AFailedWriteLeavesNothingBehind) {
  EXPECT_THROW(write_file("/nonexistent-folder/file", "x"), Error);
  write_file(path_, "old");
  write_file(path_, "new");
  EXPECT_EQ(read_file(path_), "new");
  for (const auto& entry : std::filesystem::directory_iterator(testing::TempDir()))
    EXPECT_EQ(entry.path().string().find(path_ + ".tmp"), std::string::npos);
}

// A rename would put a file in its place, for every program of the machine if root does it.
TEST_F(FileTest, ADeviceOrAPipeIsWrittenAsItIs) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  std::string read;
  std::thread reader([&] {
    std::ifstream in(path_);
    std::getline(in, read);
  });
  write_file(path_, "through the pipe\n");
  reader.join();
  EXPECT_EQ(read, "through the pipe");
  EXPECT_TRUE(std::filesystem::is_fifo(path_));
  write_file("/dev/null", "nothing");
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

}  // namespace
}  // namespace lane
