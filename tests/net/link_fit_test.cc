#include "lane/net/link_fit.h"

#include <gtest/gtest.h>

#include "lane/base/random.h"
#include "lane/plan/schedule.h"

namespace lane::net {
namespace {

constexpr plan::Link kLocal{.latency_s = 0.7e-6, .bytes_per_s = 6e9, .message_s = 0.2e-6};
constexpr plan::Link kRemote{.latency_s = 12e-6, .bytes_per_s = 2e9, .message_s = 3e-6};

// Times of all algorithms as the model has them, each off by up to `noise`.
std::vector<FitSample> samples_on(const plan::Fabric& fabric, double noise) {
  std::vector<FitSample> samples;
  for (const int partial_scale : {1, 2})
    for (const std::string& name : plan::schedule_names(plan::Collective::kAllReduce, fabric.layout)) {
      const auto cost = plan::cost(plan::make_schedule(name, plan::Collective::kAllReduce, fabric.layout),
                                   plan::Collective::kAllReduce, fabric, partial_scale);
      for (int64_t bytes = 8; bytes <= 1 << 24; bytes *= 8) {
        const double off = 2 * random_uniform(hash_name(name), static_cast<uint64_t>(bytes)) - 1;
        samples.push_back({name, partial_scale, bytes, cost.at(bytes) * (1 + noise * off)});
      }
    }
  return samples;
}

void expect_close(const plan::Link& got, const plan::Link& wanted, double share) {
  EXPECT_NEAR(got.latency_s, wanted.latency_s, share * wanted.latency_s);
  EXPECT_NEAR(got.bytes_per_s, wanted.bytes_per_s, share * wanted.bytes_per_s);
  EXPECT_NEAR(got.message_s, wanted.message_s, share * wanted.message_s);
}

TEST(LinkFit, FindsTheConstantsOfOneHost) {
  const plan::Fabric fabric = plan::Fabric::one_node(6, kLocal);
  const LinkFit exact = fit_links(fabric, samples_on(fabric, 0));
  expect_close(exact.links.local, kLocal, 0.02);
  EXPECT_LT(exact.typical_error, 0.01);
  expect_close(fit_links(fabric, samples_on(fabric, 0.1)).links.local, kLocal, 0.1);
}

// Where rounds are busy on one kind of link at a time, the fit is exact but for the rounds that mix them.
TEST(LinkFit, TellsTheLinksOfSeveralHostsApart) {
  const plan::Fabric fabric{plan::Layout::uniform(3, 2), kLocal, kRemote};
  const LinkFit fit = fit_links(fabric, samples_on(fabric, 0.05));
  expect_close(fit.links.remote, kRemote, 0.2);
  EXPECT_NEAR(fit.links.local.latency_s, kLocal.latency_s, 0.5 * kLocal.latency_s);
  EXPECT_LT(fit.typical_error, 0.1);
}

// A size at which something else rules does not bend the rest.
TEST(LinkFit, IsNotMovedByOutliers) {
  const plan::Fabric fabric = plan::Fabric::one_node(4, kLocal);
  std::vector<FitSample> samples = samples_on(fabric, 0.02);
  for (FitSample& sample : samples)
    if (sample.bytes == 1 << 18) sample.seconds *= 5;
  expect_close(fit_links(fabric, samples).links.local, kLocal, 0.1);
}

}  // namespace
}  // namespace lane::net
