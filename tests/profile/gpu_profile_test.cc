#include "lane/profile/gpu_profile.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "lane/profile/export.h"
#include "lane/profile/kernel_name.h"

namespace lane::profile {
namespace {

using Kind = GpuActivity::Kind;
constexpr auto kPrefill = static_cast<size_t>(TracePhase::kPrefill), kDecode = static_cast<size_t>(TracePhase::kDecode);
constexpr auto kMatmul = static_cast<size_t>(TraceKind::kMatmul), kOther = static_cast<size_t>(TraceKind::kOther);

// As nvcc 13 mangles them.
const std::vector<std::string> kNames = {
    "_ZN4lane4cuda39_GLOBAL__N__a665f085_7_step_cu_19c3eb1b16open_step_kernelENS1_8OpenStepE",
    "_ZN4lane4cuda41_GLOBAL__N__105858d4_9_skinny_cu_b8f78e5713skinny_kernelI13__nv_bfloat16Li2ELi4ELb0EEEvPKT_S6_S6_"
    "PS4_NS1_5ShapeE",
    "_ZN4lane4cuda39_GLOBAL__N__a665f085_7_step_cu_19c3eb1b17close_step_kernelEPKiPKfPiS6_illl"};
enum { kOpen, kSkinny, kClose };

GpuActivity kernel(int32_t name, int64_t start_ns, int64_t end_ns) {
  return {.kind = Kind::kKernel, .name = name, .start_ns = start_ns, .end_ns = end_ns};
}

// Two steps whose kernels start before the one ahead of them ends, as programmatic launches do.
GpuActivities two_steps() {
  return {.list = {kernel(kOpen, 1000, 1100), kernel(kSkinny, 1050, 1500), kernel(kClose, 1400, 1600),
                   kernel(kOpen, 1590, 1700), kernel(kSkinny, 1650, 2000), kernel(kClose, 1900, 2050)},
          .names = kNames};
}
constexpr LaunchedStep kSteps[] = {{900, TracePhase::kPrefill, true}, {1200, TracePhase::kDecode, false}};

TEST(KernelNames, TellWhatPartOfAStepTheyAre) {
  const std::pair<const char*, TraceKind> known[] = {
      {"nvjet_tst_64x8_64x16_4x1_v_bz_TNT", TraceKind::kMatmul},
      {"sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize32x32x64_stage6", TraceKind::kMatmul},
      {"_ZN8cublasLt19splitKreduce_kernelILi32ELi16EiE", TraceKind::kMatmul},
      {"_Z36ncclDevKernel_AllReduce_Sum_bf16_RING_LL24ncclDevKernelArgsStorageILm4096EE", TraceKind::kCommunication},
      {"_ZN4lane4cuda48_GLOBAL__N__bae3ae2f_15_add_rms_norm_cu_2ebf249112add_rms_normI13__nv_bfloat1613__nv_fp8_"
       "e4m3Li0ELNS0_4ShotE0EEEvNS0_5GroupENS0_6VectorIT_Lb1EEENS1_4RowsE",
       TraceKind::kCommunication},
      {"_ZN4lane4cuda46_GLOBAL__N__0501588c_13_all_reduce_cu_52ce8d648one_shotI13__nv_bfloat16Li0ELNS_8ReduceOpE0ELb0"
       "EEEvNS0_5GroupENS0_6VectorIT_XT2_EEEl",
       TraceKind::kCommunication},
      {"_ZN4lane4cuda9attention13decode_kernelINS1_3F16ELi128EEEvNS1_13AttentionArgsE", TraceKind::kAttention},
      {"_ZN10flashinfer33BatchDecodeWithPagedKVCacheKernelILi1EEEvi", TraceKind::kAttention},
      {"_ZN4lane4cuda47_GLOBAL__N__1eac34fd_14_elementwise_cu_48f20e6715rms_norm_kernelI13__nv_bfloat16Lb0EEEvPKT_PS4_"
       "S6_fS7_l",
       TraceKind::kOther}};
  for (const auto& [name, kind] : known) EXPECT_EQ(read_kernel_name(name).kind, kind) << name;
  EXPECT_EQ(read_kernel_name(kNames[kSkinny]).text, "skinny_kernel<bf16, 2, 4, false>");
  EXPECT_EQ(read_kernel_name(kNames[kSkinny]).kind, TraceKind::kMatmul);
  EXPECT_TRUE(read_kernel_name(kNames[kClose]).closes_step);
  EXPECT_FALSE(read_kernel_name(kNames[kOpen]).closes_step);
  EXPECT_EQ(read_kernel_name("").text, "");
  EXPECT_LE(read_kernel_name(std::string(500, 'x')).text.size(), 46u);
}

TEST(GpuProfile, NoNanosecondCountsTwice) {
  const GpuProfile profile = profile_gpu(two_steps(), kSteps);
  ASSERT_EQ(profile.why_not, "");
  const PhaseTotals &prefill = profile.totals[kPrefill], &decode = profile.totals[kDecode];
  EXPECT_EQ(prefill.num_steps, 1);
  EXPECT_EQ(prefill.step_ns, 700);         // from its launch at 900, after a rest
  EXPECT_EQ(prefill.op_ns[kMatmul], 400);  // 1100 to 1500
  EXPECT_EQ(prefill.op_ns[kOther], 100 + 100);
  EXPECT_EQ(decode.num_steps, 1);
  EXPECT_EQ(decode.step_ns, 450);  // from the end of the step before
  EXPECT_EQ(decode.op_ns[kMatmul], 300);
  EXPECT_EQ(decode.op_ns[kOther], 100 + 50);
  ASSERT_EQ(profile.kernels[kDecode].size(), 3u);
  EXPECT_EQ(profile.kernels[kDecode][0].name, "skinny_kernel<bf16, 2, 4, false>");
  EXPECT_EQ(profile.kernels[kDecode][0].ns, 300);
}

TEST(GpuProfile, TheOrderOfRecordsDoesNotMatter) {
  const GpuProfile expected = profile_gpu(two_steps(), kSteps);
  for (uint64_t turn = 0; turn < 20; ++turn) {
    GpuActivities shuffled = two_steps();
    for (size_t i = shuffled.list.size(); i > 1; --i)
      std::swap(shuffled.list[i - 1], shuffled.list[random_bits(turn, i) % i]);
    EXPECT_EQ(profile_to_text(profile_gpu(shuffled, kSteps)), profile_to_text(expected));
  }
}

TEST(GpuProfile, AKernelThatRunsBesideALongerOneHasNoTimeOfItsOwn) {
  GpuActivities activities = two_steps();
  activities.list.push_back(kernel(kOpen, 1200, 1300));  // inside a product
  activities.list.push_back({.kind = Kind::kCopy, .start_ns = 1710, .end_ns = 1750, .bytes = 64});
  const GpuProfile profile = profile_gpu(activities, kSteps);
  EXPECT_EQ(profile.totals[kPrefill].op_ns[kOther], 200);
  EXPECT_EQ(profile.totals[kPrefill].op_ns[kMatmul], 400);
  const auto& kernels = profile.kernels[kPrefill];
  EXPECT_EQ(
      std::find_if(kernels.begin(), kernels.end(), [](const KernelTotals& k) { return k.name == "open_step_kernel"; })
          ->num_calls,
      2);
}

TEST(GpuProfile, WaitsOfTheHostBelongToTheStepInWhichTheyBegin) {
  GpuActivities activities = two_steps();
  for (const int64_t start : {100, 950, 1700, 1800, 2050, 3000})
    activities.list.push_back({.kind = Kind::kHostWait, .start_ns = start, .end_ns = start + 500});
  const GpuProfile profile = profile_gpu(activities, kSteps);
  EXPECT_EQ(profile.num_host_waits[kPrefill], 1);
  EXPECT_EQ(profile.num_host_waits[kDecode], 2);
  EXPECT_EQ(profile.totals[kDecode].step_ns, 450);
}

TEST(GpuProfile, AFullRecorderMissesTheLastSteps) {
  GpuActivities activities = two_steps();
  activities.list.resize(4);
  activities.num_dropped = 2;
  const GpuProfile profile = profile_gpu(activities, kSteps);
  EXPECT_EQ(profile.why_not, "");
  EXPECT_EQ(profile.totals[kPrefill].num_steps, 1);
  EXPECT_EQ(profile.totals[kDecode].num_steps, 0);
  EXPECT_EQ(profile.num_steps_missing, 1);
  EXPECT_EQ(profile.num_dropped, 2);
  EXPECT_NE(format_kernels(profile).find("1 steps are not counted"), std::string::npos) << format_kernels(profile);
}

TEST(GpuProfile, LostRecordsAndUnknownStepsAreNotGuessedAt) {
  GpuActivities lost = two_steps();
  lost.list.pop_back();
  lost.num_lost = 1;
  EXPECT_NE(profile_gpu(lost, kSteps).why_not, "");
  EXPECT_NE(profile_gpu(two_steps(), std::span(kSteps, 1)).why_not, "");  // more ends than steps
  EXPECT_NE(profile_gpu({}, kSteps).why_not, "");
  EXPECT_EQ(profile_gpu({}, {}).why_not, "");
}

TEST(GpuProfile, TravelsAndAddsUpOverRanks) {
  const GpuProfile one = profile_from_text(profile_to_text(profile_gpu(two_steps(), kSteps)));
  const GpuProfile ranks[] = {one, one};
  const GpuProfile both = merge_profiles(ranks);
  EXPECT_EQ(both.totals[kDecode].num_steps, 2);
  EXPECT_EQ(both.kernels[kDecode][0].ns, 600);
  const Json json = kernels_to_json(both);
  EXPECT_EQ(json["decode"]["kernels"][0]["calls_per_step"], 1.0);
  EXPECT_DOUBLE_EQ(json["decode"]["kernels"][0]["s_per_step"].get<double>(), 300e-9);
  EXPECT_EQ(json["decode"]["num_host_waits"], 0);
  const std::string table = format_kernels(both, 2);
  EXPECT_NE(table.find("kernels of a decode step"), std::string::npos) << table;
  EXPECT_NE(table.find("1 others"), std::string::npos) << table;
  EXPECT_NE(table.find("66.7 %"), std::string::npos) << table;  // 300 of 450

  GpuProfile other = one, none;
  other.totals[kDecode].num_steps = 7;
  none.why_not = "no library";
  EXPECT_NE(merge_profiles(std::vector{one, other}).why_not, "");
  EXPECT_EQ(merge_profiles(std::vector{one, none}).why_not, "rank 1: no library");
  EXPECT_THROW(profile_from_text("short"), Error);
}

TEST(GpuProfile, HasATrackOfItsOwnInTheTrace) {
  TraceLog host;
  host.start(4);
  host.push({"step", TraceKind::kStep, TracePhase::kPrefill, 900, 1000, 0});
  const std::string ranks[] = {events_to_text(host, profile_gpu(two_steps(), kSteps, 100))};
  const Json events = parse_json(make_trace_file(ranks), "trace").at("traceEvents");
  std::vector<Json> gpu;
  for (const Json& event : events)
    if (event["ph"] == "X" && event["tid"] == 1) gpu.push_back(event);
  ASSERT_EQ(gpu.size(), 8u);  // two steps of three kernels
  EXPECT_EQ(gpu[0]["name"], "step");
  EXPECT_EQ(gpu[0]["ts"], 0.0);
  EXPECT_DOUBLE_EQ(gpu[0]["dur"].get<double>(), 0.7);
  EXPECT_EQ(gpu[2]["name"], "skinny_kernel<bf16, 2, 4, false>");
  EXPECT_EQ(gpu[2]["cat"], "matmul");
  EXPECT_EQ(gpu[7]["args"]["phase"], "decode");
  for (size_t i = 2; i < 4; ++i)  // side by side on a track, they must not overlap
    EXPECT_GE(gpu[i]["ts"].get<double>() + 1e-9, gpu[i - 1]["ts"].get<double>() + gpu[i - 1]["dur"].get<double>());
  EXPECT_EQ(profile_gpu(two_steps(), kSteps, 3).num_slices_dropped, 5);
}

}  // namespace
}  // namespace lane::profile
