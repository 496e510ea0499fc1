#include "lane/plan/draw.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "lane/base/error.h"
#include "lane/plan/messages.h"

namespace lane::plan {
namespace {

constexpr double kMargin = 24, kGutter = 66, kNodeName = 26, kBetweenRounds = 30, kBetweenNodes = 16;
constexpr double kHeaderHeight = 68, kRoundHeader = 40, kLegendHeight = 34;
constexpr size_t kMaxLabels = 200;  // of a round: more arrows hide each other
constexpr double kLetter = 5.9;     // width of a letter of a label

// Colours are named twice instead of by CSS variables, which many viewers do not know.
constexpr const char* kStyle = R"(<style>
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans", sans-serif; fill: #24292f; }
.title { font-size: 17px; font-weight: 600; }
.subtitle, .caption, .legend { font-size: 11px; fill: #57606a; }
.round { font-size: 12px; font-weight: 600; }
.rank { font-size: 12px; }
.node { font-size: 11px; fill: #57606a; font-weight: 600; }
.label { font-size: 10px; stroke: #ffffff; stroke-width: 3.5px; stroke-linejoin: round; paint-order: stroke; }
.card { fill: #ffffff; }
.box { fill: #f6f8fa; stroke: #d0d7de; }
.lane { stroke: #afb8c1; stroke-width: 1; }
.between { stroke: #d0d7de; stroke-width: 1; stroke-dasharray: 2 4; }
.message path { fill: none; stroke-width: 1.5; }
.local path { stroke: #2668c5; } .local .head, .key-local { fill: #2668c5; stroke: none; }
.remote path { stroke: #d4570f; } .remote .head, .key-remote { fill: #d4570f; stroke: none; }
.multicast path { stroke: #12856b; } .multicast .head, .key-multicast { fill: #12856b; stroke: none; }
.message .head { stroke: none; }
.message:hover path { stroke-width: 3; }
.sent { fill: #57606a; }
.sum { fill: #ffffff; stroke: #24292f; stroke-width: 1.3; }
.plus { stroke: #24292f; stroke-width: 1.3; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .subtitle, .caption, .legend, .node { fill: #9198a1; }
  .label { stroke: #0d1117; } .card { fill: #0d1117; } .box { fill: #161b22; stroke: #30363d; }
  .lane { stroke: #484f58; } .between { stroke: #30363d; } .sent { fill: #9198a1; }
  .local path { stroke: #6cb0ff; } .local .head, .key-local { fill: #6cb0ff; }
  .remote path { stroke: #ff9d57; } .remote .head, .key-remote { fill: #ff9d57; }
  .multicast path { stroke: #45cfa9; } .multicast .head, .key-multicast { fill: #45cfa9; }
  .sum { fill: #0d1117; stroke: #e6edf3; } .plus { stroke: #e6edf3; }
}
</style>
)";

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '&')
      result += "&amp;";
    else if (c == '<')
      result += "&lt;";
    else if (c == '>')
      result += "&gt;";
    else if (c == '"')
      result += "&quot;";
    else
      result += c;
  }
  return result;
}

// "0-3, 8": ascending numbers with neighbours put together.
std::string ranges(const std::vector<int>& chunks) {
  std::string text;
  for (size_t first = 0, last = 0; first < chunks.size(); first = ++last) {
    while (last + 1 < chunks.size() && chunks[last + 1] == chunks[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text += std::to_string(chunks[first]);
    if (last > first) text += (last == first + 1 ? ", " : "–") + std::to_string(chunks[last]);
  }
  return text;
}

struct Point {
  double x, y;
};

struct Curve {
  Point from, to;
  double bend() const { return 0.38 * (to.x - from.x); }
  Point at(double t) const {
    const double u = 1 - t, x[] = {from.x, from.x + bend(), to.x - bend(), to.x};
    const double weights[] = {u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t};
    Point point{0, 0};
    for (int i = 0; i < 4; ++i) point.x += weights[i] * x[i], point.y += weights[i] * (i < 2 ? from.y : to.y);
    return point;
  }
};

class Drawer {
 public:
  Drawer(const Schedule& schedule, const Layout& layout, const DrawingText& text)
      : schedule_(schedule), layout_(layout), text_(text), rounds_(messages_by_round(schedule)) {
    ensure(layout.num_ranks() == schedule.num_ranks(), "a schedule is drawn on a layout for as many ranks");
    place_ranks();
    place_rounds();
  }

  std::string draw() {
    std::string rounds, back;
    for (int round = 0; round < static_cast<int>(rounds_.size()); ++round) draw_round(rounds, round);
    draw_legend(rounds);  // it may need more width than the rounds
    const std::string& title = text_.title.empty() ? schedule_.name : text_.title;
    back += fmt::format("<rect class=\"card\" width=\"{:.0f}\" height=\"{:.0f}\" rx=\"10\"/>\n", width_, height_);
    back += line("title", kMargin, 34, title) + line("subtitle", kMargin, 54, text_.subtitle);
    draw_lanes(back);
    return fmt::format(
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} "
               "{1:.0f}\" role=\"img\">\n<title>{2}</title>\n",
               width_, height_, escaped(title)) +
           kStyle + back + rounds + "</svg>\n";
  }

 private:
  void place_ranks() {
    const int n = layout_.num_ranks();
    pitch_ = n <= 8 ? 46 : n <= 16 ? 34 : n <= 32 ? 26 : 20;
    y_.resize(n);
    double y = kHeaderHeight + kRoundHeader;
    for (const auto& node : layout_.ranks_by_node()) {
      top_of_node_.push_back(y);
      for (const int rank : node) y_[rank] = y + pitch_ / 2, y += pitch_;
      bottom_of_node_.push_back(y);
      y += kBetweenNodes;
    }
    lanes_bottom_ = bottom_of_node_.back();
    height_ = lanes_bottom_ + 16 + kLegendHeight;
  }

  void place_rounds() {
    double x = kMargin + kNodeName + kGutter;
    for (size_t round = 0; round < rounds_.size(); ++round) {
      double longest = 0;
      for (const Message& message : rounds_[round])
        for (const int to : receivers(message)) longest = std::max(longest, std::abs(y_[to] - y_[message.from]));
      double round_width = std::clamp(70 + 0.55 * longest, 104.0, 330.0);
      if (round < text_.captions.size())
        round_width = std::max(round_width, kLetter * static_cast<double>(text_.captions[round].size()));
      begin_.push_back(x);
      end_.push_back(x + round_width);
      x += round_width + kBetweenRounds;
    }
    const double widest_text = static_cast<double>(std::max(text_.title.size() * 10, text_.subtitle.size() * 6));
    width_ = std::max({x + kMargin, 560.0, widest_text + 2 * kMargin});
  }

  std::vector<int> receivers(const Message& message) const {
    if (message.to >= 0) return {message.to};
    std::vector<int> others;
    for (int rank = 0; rank < layout_.num_ranks(); ++rank)
      if (rank != message.from && layout_.node_of[rank] == layout_.node_of[message.from]) others.push_back(rank);
    return others;
  }

  static std::string line(const char* style, double x, double y, const std::string& words,
                          const char* anchor = "start") {
    if (words.empty()) return "";
    return fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", style, x, y,
                       anchor, escaped(words));
  }

  void draw_lanes(std::string& body) const {
    const bool named = layout_.num_nodes() > 1;
    const double right = width_ - kMargin;
    for (size_t node = 0; node < top_of_node_.size(); ++node) {
      const double top = top_of_node_[node], bottom = bottom_of_node_[node], middle = (top + bottom) / 2;
      body +=
          fmt::format("<rect class=\"box\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"8\"/>\n",
                      kMargin, top, right - kMargin, bottom - top);
      if (named && bottom - top >= 40)
        body += fmt::format(
            "<text class=\"node\" transform=\"translate({:.1f},{:.1f}) rotate(-90)\" "
            "text-anchor=\"middle\">node {}</text>\n",
            kMargin + 17, middle, node);
      else if (named)
        body += line("node", kMargin + 13, middle + 4, std::to_string(node), "middle");
    }
    for (int rank = 0; rank < layout_.num_ranks(); ++rank) {
      body += line("rank", kMargin + kNodeName + 2, y_[rank] + 4, fmt::format("rank {}", rank));
      body += fmt::format("<line class=\"lane\" x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{2:.1f}\" y2=\"{1:.1f}\"/>\n",
                          kMargin + kNodeName + kGutter - 14, y_[rank], right - 8);
    }
  }

  // What the rank receives in the round is added, at least in part.
  bool adds(int rank, int round) const {
    return std::any_of(schedule_.program[rank].begin(), schedule_.program[rank].end(), [&](const Step& step) {
      return step.round == round && (step.action == Action::kRecvReduce || step.action == Action::kCollect);
    });
  }

  void draw_round(std::string& body, int round) {
    const double middle = (begin_[round] + end_[round]) / 2, top = kHeaderHeight + 14;
    body += line("round", middle, top, fmt::format("round {}", round + 1), "middle");
    if (round < static_cast<int>(text_.captions.size()))
      body += line("caption", middle, top + 16, text_.captions[round], "middle");
    if (round > 0) {
      const double x = begin_[round] - kBetweenRounds / 2;
      body += fmt::format("<line class=\"between\" x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\"/>\n", x,
                          kHeaderHeight + kRoundHeader, lanes_bottom_);
    }
    std::vector<Arrow> arrows;
    std::set<int> senders, getters;
    for (const Message& message : rounds_[round]) {
      senders.insert(message.from);
      std::vector<int> chunks;
      for (size_t i = message.begin; i < message.end; ++i) chunks.push_back(schedule_.program[message.from][i].chunk);
      const bool remote = message.to >= 0 && layout_.node_of[message.to] != layout_.node_of[message.from];
      uses_remote_ |= remote;
      uses_multicast_ |= message.to < 0;
      uses_local_ |= message.to >= 0 && !remote;
      const std::string words = ranges(chunks);
      body += fmt::format("<g class=\"message {}\"><title>round {}: rank {} to {}: {} {}</title>",
                          message.to < 0 ? "multicast"
                          : remote       ? "remote"
                                         : "local",
                          round + 1, message.from,
                          message.to < 0 ? "all others of its node" : fmt::format("rank {}", message.to),
                          chunks.size() == 1 ? "chunk" : "chunks", words);
      for (const int rank : receivers(message)) {
        getters.insert(rank);
        const double gap = adds(rank, round) ? 6 : 1;  // room for the circle
        const Curve curve{{begin_[round], y_[message.from]}, {end_[round] - gap - 6, y_[rank]}};
        body += fmt::format("<path d=\"M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}\"/>", curve.from.x,
                            curve.from.y, curve.from.x + curve.bend(), curve.from.y, curve.to.x - curve.bend(),
                            curve.to.y, curve.to.x, curve.to.y);
        body += fmt::format("<polygon class=\"head\" points=\"{0:.1f},{1:.1f} {2:.1f},{3:.1f} {2:.1f},{4:.1f}\"/>",
                            curve.to.x + 6, curve.to.y, curve.to.x - 1.5, curve.to.y - 3.6, curve.to.y + 3.6);
        arrows.push_back({message.from, rank, curve, words});
      }
      body += "</g>\n";
    }
    for (const int rank : senders)
      body += fmt::format("<circle class=\"sent\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.6\"/>\n", begin_[round], y_[rank]);
    for (const int rank : getters)
      if (adds(rank, round)) add_sum(body, end_[round], y_[rank]), uses_sums_ = true;
    if (schedule_.num_chunks > 1) draw_labels(body, std::move(arrows));
  }

  struct Arrow {
    int from, to;
    Curve curve;
    std::string chunks;
    std::vector<Point> points = {};  // along the curve
  };

  // A rank that sends the same to several others has that beside itself, and so does one that gets the same from
  // several; other arrows have it on themselves, where no other arrow or label is near. Without such a place they have
  // none.
  static void draw_labels(std::string& body, std::vector<Arrow> arrows) {
    const auto uniform = [&](int Arrow::*end, int rank) {
      const std::string* chunks = nullptr;
      int count = 0;
      for (const Arrow& arrow : arrows) {
        if (arrow.*end != rank) continue;
        if (chunks != nullptr && *chunks != arrow.chunks) return false;
        chunks = &arrow.chunks;
        ++count;
      }
      return count > 1;
    };
    std::set<int> senders, getters;
    std::vector<Point> taken;
    if (arrows.size() <= kMaxLabels)
      for (Arrow& arrow : arrows)
        for (int i = 0; i <= 32; ++i) arrow.points.push_back(arrow.curve.at(i / 32.0));
    for (const Arrow& arrow : arrows) {
      if (senders.contains(arrow.from)) continue;
      if (uniform(&Arrow::from, arrow.from)) {
        senders.insert(arrow.from);
        body += line("label", arrow.curve.from.x - 4, arrow.curve.from.y - 6, arrow.chunks);
      }
    }
    for (const Arrow& arrow : arrows) {
      if (senders.contains(arrow.from) || getters.contains(arrow.to)) continue;
      if (uniform(&Arrow::to, arrow.to)) {
        getters.insert(arrow.to);
        body += line("label", arrow.curve.to.x + 4, arrow.curve.to.y - 6, arrow.chunks, "end");
      } else if (arrows.size() <= kMaxLabels) {
        draw_label(body, arrow, arrows, taken);
      }
    }
  }

  static void draw_label(std::string& body, const Arrow& arrow, const std::vector<Arrow>& arrows,
                         std::vector<Point>& taken) {
    const double half_width = kLetter * static_cast<double>(arrow.chunks.size()) / 2;
    if (half_width > 45) return;
    double best_room = 0;
    Point best{};
    for (const double t : {0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73, 0.2, 0.8}) {
      const Point at = arrow.curve.at(t);
      double room = 14;
      const auto keep_off = [&](const Point& other, double width) {
        const double x = std::max(0.0, std::abs(other.x - at.x) - width), y = other.y - at.y;
        if (x * x + y * y < room * room) room = std::sqrt(x * x + y * y);
      };
      for (const Point& other : taken) keep_off(other, 2 * half_width);
      for (const Arrow& other : arrows) {
        if (&other == &arrow || std::min(other.curve.from.y, other.curve.to.y) > at.y + room ||
            std::max(other.curve.from.y, other.curve.to.y) < at.y - room)
          continue;
        for (const Point& point : other.points) keep_off(point, half_width);
      }
      if (room > best_room + 1) best_room = room, best = at;
    }
    if (best_room < 4.5) return;
    taken.push_back(best);
    body += line("label", best.x, best.y + 3.5, arrow.chunks, "middle");
  }

  static void add_sum(std::string& body, double x, double y) {
    body += fmt::format(
        "<circle class=\"sum\" cx=\"{0:.1f}\" cy=\"{1:.1f}\" r=\"5.5\"/><path class=\"plus\" d=\"M{2:.1f} "
        "{1:.1f}H{3:.1f}"
        "M{0:.1f} {4:.1f}V{5:.1f}\"/>\n",
        x, y, x - 3, x + 3, y - 3, y + 3);
  }

  void draw_legend(std::string& body) {
    double x = kMargin;
    const double y = lanes_bottom_ + 16 + 12;
    const auto words = [&](const std::string& text) {
      body += line("legend", x, y + 4, text);
      x += static_cast<double>(text.size()) * kLetter + 22;
    };
    const auto key = [&](bool used, const char* style, const char* text) {
      if (!used) return;
      body +=
          fmt::format("<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"20\" height=\"2.5\"/>\n", style, x, y - 1);
      x += 27;
      words(text);
    };
    key(uses_local_, "key-local", "inside a node");
    key(uses_remote_, "key-remote", "between nodes");
    key(uses_multicast_, "key-multicast", "multicast: written once");
    if (uses_sums_) {
      add_sum(body, x + 6, y);
      x += 18;
      words("added up");
    }
    if (schedule_.num_chunks == 1)
      words("each message: the whole vector");
    else
      words(fmt::format("numbers: which of the {} chunks{}", schedule_.num_chunks,
                        text_.chunk_size.empty() ? "" : " of " + text_.chunk_size));
    width_ = std::max(width_, x - 22 + kMargin);
  }

  const Schedule& schedule_;
  const Layout& layout_;
  const DrawingText& text_;
  std::vector<std::vector<Message>> rounds_;
  double pitch_ = 0, width_ = 0, height_ = 0, lanes_bottom_ = 0;
  std::vector<double> y_;                             // by rank
  std::vector<double> top_of_node_, bottom_of_node_;  // by node
  std::vector<double> begin_, end_;                   // by round
  bool uses_local_ = false, uses_remote_ = false, uses_multicast_ = false, uses_sums_ = false;
};

}  // namespace

std::string draw(const Schedule& schedule, const Layout& layout, const DrawingText& text) {
  return Drawer(schedule, layout, text).draw();
}

}  // namespace lane::plan
