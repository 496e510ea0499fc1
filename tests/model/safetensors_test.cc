#include "lane/model/safetensors.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "tests/model/checkpoint_writer.h"

namespace lane {
namespace {

using test::safetensors_file;
using test::TempFolder;
using test::TestTensor;
using test::with_header;

std::string counting(int64_t bytes) {
  std::string data(static_cast<size_t>(bytes), '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i);
  return data;
}

std::vector<TestTensor> some_tensors() {
  return {{"a.weight", "BF16", {6, 4}, counting(48)},
          {"b", "F32", {3}, counting(12)},
          {"scalar", "F16", {}, counting(2)},
          {"empty", "F32", {0, 7}, ""},
          {"ids", "I64", {2}, counting(16)}};
}

void expect_corrupt(const std::string& what, const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "accepted; expected: " << what;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruptData) << error.what();
    EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what() << "\nexpected: " << what;
  }
}

TEST(Safetensors, ReadsTheHeader) {
  const TempFolder folder;
  folder.write("model.safetensors", safetensors_file(some_tensors()));
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a.weight", "b", "empty", "ids", "scalar"}));
  EXPECT_TRUE(checkpoint.has("b"));
  EXPECT_FALSE(checkpoint.has("c"));
  const TensorEntry& a = checkpoint.entry("a.weight");
  EXPECT_EQ(a.dtype, DType::kBF16);
  EXPECT_EQ(a.shape, (std::vector<int64_t>{6, 4}));
  EXPECT_EQ(a.rows(), 6);
  EXPECT_EQ(a.cols(), 4);
  EXPECT_EQ(checkpoint.entry("scalar").rows(), 1);
  EXPECT_EQ(checkpoint.entry("scalar").cols(), 1);
  EXPECT_FALSE(checkpoint.entry("ids").dtype);
  EXPECT_EQ(checkpoint.entry("ids").dtype_name, "I64");
  expect_corrupt("model.safetensors: tensor \"c\" is missing", [&] { checkpoint.entry("c"); });
}

TEST(Safetensors, ReadsExactlyTheSlice) {
  const TempFolder folder;
  folder.write("model.safetensors", safetensors_file(some_tensors()));
  const Checkpoint checkpoint(folder.path());
  const std::string all = counting(48);
  for (int64_t row_begin = 0; row_begin <= 6; ++row_begin)
    for (int64_t row_end = row_begin; row_end <= 6; ++row_end)
      for (int64_t col_begin = 0; col_begin <= 4; ++col_begin)
        for (int64_t col_end = col_begin; col_end <= 4; ++col_end) {
          std::string expected;
          for (int64_t row = row_begin; row < row_end; ++row)
            expected +=
                all.substr(static_cast<size_t>(row * 8 + col_begin * 2), static_cast<size_t>(col_end - col_begin) * 2);
          std::string got(expected.size() + 1, 'x');
          const int64_t before = checkpoint.bytes_read();
          checkpoint.read_slice("a.weight", row_begin, row_end, col_begin, col_end, got.data());
          EXPECT_EQ(got, expected + "x");
          EXPECT_EQ(checkpoint.bytes_read() - before, static_cast<int64_t>(expected.size()));
        }
  std::string vector(4, 'x');
  checkpoint.read_slice("b", 0, 1, 1, 2, vector.data());
  EXPECT_EQ(vector, counting(12).substr(4, 4));
  try {
    checkpoint.read_slice("ids", 0, 1, 0, 1, vector.data());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("tensor \"ids\" is of dtype I64"), std::string::npos) << error.what();
  }
}

// One tensor "t" with the given parts of its entry, and eight bytes of data.
std::string header_of(const std::string& fields) { return "{\"t\":{" + fields + "}}"; }

TEST(Safetensors, BadHeadersAreNamed) {
  struct Case {
    std::string header;
    const char* part;
  };
  const std::string ok = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  const std::vector<Case> cases = {
      {"", "does not start with '{'"},
      {" {}", "does not start with '{'"},
      {"[]", "does not start with '{'"},
      {"{", "not valid JSON"},
      {"{} {}", "not valid JSON"},
      {"{\"t\":{}}x", "\"dtype\" is missing"},
      {"{}", "the last 8 bytes of the file belong to no tensor"},
      {"{\"t\":5}", "tensor \"t\": expected an object with dtype, shape and data_offsets, found the number 5"},
      {"{\"t\":null}", "found null"},
      {"{\"t\":[]}", "found a list"},
      {"{\"\":{" + ok + "}}", "a tensor has an empty name"},
      {"{\"t\":{" + ok + "},\"t\":{" + ok + "}}", "tensor \"t\": appears twice"},
      {"{\"t\":{" + ok + "},\"\\u0074\":{" + ok + "}}", "tensor \"t\": appears twice"},
      {"{\"t\":{" + ok + "},\"__metadata__\":{\"a\":1}}", "expected an object of texts, found the number 1"},
      {"{\"t\":{" + ok + "},\"__metadata__\":[]}", "expected an object of texts, found a list"},
      {"{\"__metadata__\":{},\"t\":{" + ok + "},\"__metadata__\":{}}", "\"__metadata__\": appears twice"},
      {"{\"t\":{" + ok + "},\"u\":{" + ok + "}}", "tensor \"u\": its data overlaps that of another tensor by 8 bytes"},
      {header_of(ok + R"(,"dtype":"F32")"), "field \"dtype\" appears twice"},
      {header_of(ok + R"(,"stride":[1])"), "unknown field \"stride\""},
      {header_of(R"("shape":[2],"data_offsets":[0,8])"), "tensor \"t\": \"dtype\" is missing"},
      {header_of(R"("dtype":"F32","data_offsets":[0,8])"), "\"shape\" is missing"},
      {header_of(R"("dtype":"F32","shape":[2])"), "\"data_offsets\" is missing"},
      {header_of(R"("dtype":"F33","shape":[2],"data_offsets":[0,8])"), "unknown dtype \"F33\""},
      {header_of(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"),
       "expected the name of a dtype, found the number 32"},
      {header_of(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), "expected a shape"},
      {header_of(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), "found the number -2"},
      {header_of(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), "found the number 2.0"},
      {header_of(R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])"), "found the text \"2\""},
      {header_of(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), "found a list"},
      {header_of(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8])"), "is over 2^63"},
      {header_of(R"("dtype":"F32","shape":[18446744073709551617],"data_offsets":[0,8])"), "found the number 184467"},
      {header_of(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8])"), "more elements than"},
      {header_of(R"("dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), "more elements than"},
      {header_of(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), "has 8 bytes, but F32 of shape [3] takes 12"},
      {header_of(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"), "has 8 bytes, but F32 of shape [1] takes 4"},
      {header_of(R"("dtype":"F4","shape":[15],"data_offsets":[0,8])"), "does not end on a byte"},
      {header_of(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), "has 1 numbers, not 2"},
      {header_of(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), "has 3 numbers, not 2"},
      {header_of(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), "its data_offsets [8, 0] are not inside"},
      {header_of(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])"), "[4, 12] are not inside the 8 bytes of data"},
      {header_of(R"("dtype":"F32","shape":[2],"data_offsets":[0,9223372036854775807])"), "are not inside"},
      {header_of(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), "the 4 bytes in front of its data belong to no"},
      {header_of(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), "the last 4 bytes of the file belong to no"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.header);
    const auto file_bytes = static_cast<int64_t>(with_header(c.header, counting(8)).size());
    expect_corrupt(c.part, [&] { parse_safetensors_header(c.header, file_bytes, "x.safetensors"); });
    expect_corrupt("x.safetensors", [&] { parse_safetensors_header(c.header, file_bytes, "x.safetensors"); });
  }
  EXPECT_EQ(parse_safetensors_header(header_of(ok) + "   ", 8 + 3 + 8 + static_cast<int64_t>(header_of(ok).size()), "x")
                .size(),
            1u);
  const std::string deep = "{\"t\":" + std::string(1000000, '[');
  expect_corrupt("found a list", [&] { parse_safetensors_header(deep, 1 << 30, "x"); });
}

TEST(Safetensors, BadFilesAreNamed) {
  const TempFolder folder;
  const std::string good = safetensors_file(some_tensors());
  const auto expect_bad = [&](const std::string& content, const std::string& part) {
    folder.write("model.safetensors", content);
    expect_corrupt(part, [&] { Checkpoint checkpoint(folder.path()); });
  };
  expect_bad("", "the file has 0 bytes: not a safetensors file");
  expect_bad("1234567", "the file has 7 bytes");
  expect_bad(std::string(8, '\xff'), "a header of 18446744073709551615 bytes; at most 100000000 are allowed");
  expect_bad(std::string("\x00\x00\x00\x00\x00\x00\x00\x80", 8) + "{}", "a header of 9223372036854775808 bytes");
  expect_bad(std::string("\x40\x00\x00\x00\x00\x00\x00\x00", 8) + "{}",
             "a header of 64 bytes, but the file has only 10");
  expect_bad(good + "x", "the last 1 bytes of the file belong to no tensor");
  for (size_t size = 8; size < good.size(); size += 7) expect_bad(good.substr(0, size), "model.safetensors: ");
}

TEST(Safetensors, ShardsAreFoundThroughTheIndex) {
  const TempFolder folder;
  folder.write("model-1.safetensors", safetensors_file({{"a", "F32", {2}, counting(8)}, {"c", "U8", {1}, "c"}}));
  folder.write("model-2.safetensors", safetensors_file({{"b", "F32", {1}, counting(4)}}));
  const auto index = [&](const std::string& map) {
    folder.write("model.safetensors.index.json", R"({"metadata":{"total_size":12},"weight_map":)" + map + "}");
  };
  index(R"({"a":"model-1.safetensors","b":"model-2.safetensors"})");
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(checkpoint.path_of("b").ends_with("/model-2.safetensors"));
  std::string got(4, 'x');
  checkpoint.read_slice("b", 0, 1, 0, 1, got.data());
  EXPECT_EQ(got, counting(4));

  struct Case {
    const char* map;
    const char* part;
  };
  for (const Case& c : {
           Case{R"({"a":"model-3.safetensors"})", "is in \"model-3.safetensors\", but there is no such file"},
           Case{R"({"b":"model-1.safetensors"})", "tensor \"b\", which the index places here, is missing"},
           Case{R"({"a":"../x.safetensors"})", "tensor \"a\": \"../x.safetensors\" is not the name of a file"},
           Case{R"({"a":"/etc/passwd"})", "is not the name of a file in the same folder"},
           Case{R"({"a":"sub/x.safetensors"})", "is not the name of a file"},
           Case{R"({"a":".."})", "is not the name of a file"},
           Case{R"({"a":""})", "is not the name of a file"},
           Case{R"({"a":"model-1.safetensors\u0000"})", "is not the name of a file"},
           Case{R"({"a":7})", "tensor \"a\": expected the name of a file"},
           Case{R"([])", "there is no object \"weight_map\""},
       }) {
    index(c.map);
    expect_corrupt(c.part, [&] { Checkpoint bad(folder.path()); });
  }
  folder.write("model.safetensors.index.json", "[]");
  expect_corrupt("there is no object \"weight_map\"", [&] { Checkpoint bad(folder.path()); });
}

TEST(Safetensors, NoCheckpointIsSaidSo) {
  const TempFolder folder;
  try {
    Checkpoint checkpoint(folder.path());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("neither model.safetensors nor"), std::string::npos);
  }
}

// 20,000 damaged headers and files: each is an Error{kCorruptData} or a list of tensors that lie inside the file.
TEST(Safetensors, MutationsNeverCrash) {
  const std::string good = safetensors_file(some_tensors());
  const std::string header = good.substr(8, good.size() - 8 - 78);
  ASSERT_TRUE(header.ends_with("}}"));
  const auto file_bytes = static_cast<int64_t>(good.size());
  const std::vector<std::string> words = {"0",
                                          "-1",
                                          "9223372036854775807",
                                          "18446744073709551615",
                                          "1e999",
                                          "null",
                                          "[]",
                                          "{}",
                                          "\"F64\"",
                                          "\"\"",
                                          "[[",
                                          "4294967296",
                                          "\\u0000",
                                          "\"BF16\"",
                                          ",",
                                          ":"};
  int num_accepted = 0;
  for (uint64_t round = 0; round < 20000; ++round) {
    std::string text = header;
    const uint64_t num_changes = 1 + random_bits(round, 0) % 3;
    for (uint64_t change = 1; change <= num_changes; ++change) {
      const auto pick = [&](uint64_t what, uint64_t below) { return random_bits(round, change * 8 + what) % below; };
      const size_t at = pick(0, text.size());
      switch (pick(1, 5)) {
        case 0:
          text[at] = static_cast<char>(pick(2, 256));
          break;
        case 1:
          text.erase(at, 1 + pick(2, 20));
          break;
        case 2:
          text.insert(at, text.substr(pick(2, text.size()), pick(3, 60)));
          break;
        case 3:  // a digit becomes another digit
          if (const size_t digit = text.find_first_of("0123456789", at); digit != std::string::npos)
            text[digit] = static_cast<char>('0' + pick(2, 10));
          break;
        default: {  // a value becomes another one
          const size_t begin = text.find_first_of("[,:", at), end = text.find_first_of(",]}", begin + 1);
          if (begin != std::string::npos && end != std::string::npos)
            text.replace(begin + 1, end - begin - 1, words[pick(2, words.size())]);
        }
      }
    }
    try {
      for (const auto& [name, entry] : parse_safetensors_header(
               text, file_bytes + static_cast<int64_t>(text.size()) - static_cast<int64_t>(header.size()), "x")) {
        EXPECT_TRUE(8 <= entry.begin && entry.begin <= entry.end && entry.end <= file_bytes + 64) << text;
        if (entry.dtype) {
          EXPECT_EQ(entry.rows() * entry.cols() * size_of(*entry.dtype), entry.end - entry.begin) << text;
        }
      }
      ++num_accepted;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptData) << error.what() << "\n" << text;
    }
  }
  EXPECT_GT(num_accepted, 100);
}

TEST(Safetensors, DamagedFilesNeverCrash) {
  const TempFolder folder;
  const std::string good = safetensors_file(some_tensors());
  for (uint64_t round = 0; round < 1000; ++round) {
    std::string file = good;
    for (uint64_t change = 0; change <= random_bits(round, 0) % 4; ++change)
      file[random_bits(round, 2 * change + 1) % (round % 2 ? 16 : file.size())] =
          static_cast<char>(random_bits(round, 2 * change + 2));
    if (round % 5 == 0) file.resize(random_bits(round, 100) % file.size());
    folder.write("model.safetensors", file);
    try {
      const Checkpoint checkpoint(folder.path());
      for (const std::string& name : checkpoint.names()) {
        const TensorEntry& entry = checkpoint.entry(name);
        if (!entry.dtype) continue;
        std::string out(static_cast<size_t>(entry.end - entry.begin), '\0');
        checkpoint.read_slice(name, 0, entry.rows(), 0, entry.cols(), out.data());
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kCorruptData) << error.what();
    }
  }
}

}  // namespace
}  // namespace lane
