#include "lane/runtime/histories.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "lane/runtime/device_sampler.h"
#include "tests/runtime/sampler_cases.h"

namespace lane {
namespace {

using Row = Histories::Row;

TEST(Histories, FollowASequenceTokenByToken) {
  Histories histories(2);
  const auto seat = [&](int64_t sequence, int64_t length) {
    const Row row{sequence, length};
    return histories.seat(std::span(&row, 1))[0];
  };
  EXPECT_EQ(seat(7, 10).slot, 0);
  const auto second = seat(7, 11);
  EXPECT_EQ(second.slot, 0);
  EXPECT_TRUE(second.is_up_to_date);
  EXPECT_EQ(seat(8, 3).slot, 1);
  EXPECT_FALSE(seat(7, 11).is_up_to_date) << "the step before was given these 11 tokens and added one";
  EXPECT_TRUE(seat(8, 4).is_up_to_date) << "a sequence may be away for a while";
  EXPECT_EQ(seat(9, 5).slot, 0) << "of the one that was away the longest";
  EXPECT_FALSE(seat(7, 12).is_up_to_date) << "it lost its place";
}

// A history that claims to be up to date holds exactly the tokens of its sequence, whoever comes, goes, is set back or
// sits out.
TEST(Histories, AreRightWhateverHappens) {
  struct Sequence {
    int64_t length;
    bool took_part = false;
  };
  for (const uint64_t key : {1, 2, 3}) {
    Random random(key);
    constexpr int64_t kMost = 5;
    Histories histories(kMost);
    std::map<int64_t, Sequence> sequences;
    std::map<int64_t, std::pair<int64_t, int64_t>> on_device;  // by slot: whose tokens, and how many
    int64_t num_added = 0, num_up_to_date = 0;
    for (int step = 0; step < 2000; ++step) {
      while (sequences.size() < 8 && random.chance(0.3)) sequences[num_added++] = {1 + random.below(50)};
      std::vector<Row> rows;
      std::vector<bool> must_be_known;
      for (auto& [number, sequence] : sequences) {
        const bool takes_part =
            static_cast<int64_t>(rows.size()) < kMost && random.chance(sequence.took_part ? 0.9 : 0.3);
        if (takes_part) {
          rows.push_back({number, sequence.length});
          must_be_known.push_back(sequence.took_part);
        }
        sequence.took_part = takes_part;
      }
      const auto places = histories.seat(rows);
      std::set<int64_t> slots;
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto& [slot, is_up_to_date] = places[i];
        EXPECT_TRUE(slots.insert(slot).second && slot < kMost) << "a slot for each";
        EXPECT_LE(slot, static_cast<int64_t>(on_device.size())) << "a new slot is the next";
        if (is_up_to_date)
          EXPECT_EQ(on_device[slot], std::pair(rows[i].sequence, rows[i].length));
        else
          EXPECT_FALSE(must_be_known[i]) << "its last token may be unknown";
        num_up_to_date += is_up_to_date;
        on_device[slot] = {rows[i].sequence, ++sequences[rows[i].sequence].length};
      }
      for (auto it = sequences.begin(); it != sequences.end();) it = random.chance(0.03) ? sequences.erase(it) : ++it;
    }
    EXPECT_GT(num_up_to_date, 2000);
  }
}

TEST(Rules, AreWhatTheSamplerTakesFromParameters) {
  SamplingParams params{.temperature = 0.5, .top_k = 7, .top_p = 0.9, .min_p = 0.25, .seed = 3, .logprobs = 2};
  const std::vector<int32_t> tokens = {1, 2, 3};
  const SamplingRow row{&params, tokens, 2};
  kernels::RuleRow rules = rules_of(row, 100);
  EXPECT_EQ(rules.scale, 2);
  EXPECT_EQ(rules.top_k, 7);
  EXPECT_EQ(rules.top_p, 0.9);
  EXPECT_EQ(rules.log_min_p, std::log(0.25));
  EXPECT_EQ(rules.position, 3u);
  EXPECT_EQ(rules.noise_key, 3u ^ hash_name("sampler"));
  EXPECT_EQ(rules.num_top, 2);
  EXPECT_EQ(rules.bans_hold, 0);
  params.top_k = 100;
  EXPECT_EQ(rules_of(row, 100).top_k, 0) << "all of them";
  params.temperature = 0;
  rules = rules_of(row, 100);
  EXPECT_EQ(rules.scale, 0);
  EXPECT_EQ(rules.top_p, 1) << "the largest logit, whatever else is set";
}

}  // namespace
}  // namespace lane
