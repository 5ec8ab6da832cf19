#include "controller/report/timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <string_view>
#include <vector>

#include "controller/report/chronicle.h"
#include "controller/report/markup.h"
#include "controller/report/text.h"

namespace squall::report {
namespace {

constexpr double kWidth = 1000;
constexpr double kLeft = 172;  ///< Where the plot begins: names stand before it.
constexpr double kRight = 986;
constexpr double kChart = 84;    ///< The height of a check's curve,
constexpr double kBetween = 26;  ///< and the room above it.
constexpr double kBand = 18;

constexpr std::size_t kMostCharts = 24;
constexpr std::size_t kMostLanes = 40;
constexpr std::size_t kMostBands = 400;
constexpr std::size_t kMostAtOnce = 10;  ///< On one node.
constexpr std::size_t kMostMarks = 40;

/// Columns of a name before the plot, and about how wide a letter is.
constexpr int kNameColumns = 25;
constexpr double kLetter = 6.3;

/// As it fits; never a control.
std::string name(std::string_view text, int columns = kNameColumns) {
  const Style style{.utf8 = true};
  return xml(Line().add(shown(text, style)).text(style, columns));
}

/// 1, 2 or 5 times a power of ten, but of minutes where it is minutes: about eight to the whole.
double tick_of(double seconds) {
  constexpr std::array kLong = {60.0,   120.0,   300.0,   600.0,   1800.0,  3600.0,
                                7200.0, 21600.0, 43200.0, 86400.0, 604800.0};
  const double rough = seconds / 8;
  if (rough > 30) {
    for (const double tick : kLong) {
      if (tick >= rough) return tick;
    }
    return rough;
  }
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double times : {1.0, 2.0, 5.0}) {
    if (times * power >= rough) return times * power;
  }
  return 10 * power;
}

std::string tick_text(double seconds, double tick) {
  if (seconds == 0) return "0";
  if (tick >= 60) return clock_text(seconds);
  if (tick >= 1) return fmt::format("{:.0f}s", seconds);
  if (tick >= 0.001) return fmt::format("{:g}s", std::round(seconds * 1e4) / 1e4);
  return fmt::format("{:g}ms", std::round(seconds * 1e6) / 1e3);
}

struct Mark {
  double at = 0;
  std::string_view style;
  std::string_view word;
  std::string words;
};

class Timeline {
 public:
  explicit Timeline(const Story& story) : story_(story) {
    total_ = std::max(story.end().elapsed, 1e-6);
    if (!std::isfinite(total_)) total_ = 1;
  }

  std::string svg() {
    y_ = 4;
    marks();
    axis_at_ = y_;
    phases();
    faults();
    checks();
    std::string out = fmt::format(
        "<svg class=\"timeline\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" "
        "aria-label=\"timeline of the run\">\n",
        kWidth, y_ + 4);
    grid();
    return out + behind_ + body_ + "</svg>\n";
  }

 private:
  double x(double seconds) const {
    return kLeft + std::clamp(seconds / total_, 0.0, 1.0) * (kRight - kLeft);
  }

  void text(double at, double y, std::string_view style, const std::string& safe) {
    body_ +=
        fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\">{}</text>\n", at, y, style, safe);
  }

  /// Flags above the plot, on as many rows as they need, with a line down through everything.
  void marks() {
    std::vector<Mark> all;
    for (const CheckStory& check : story_.checks) {
      for (const BreachStory& breach : check.breaches) {
        all.push_back(
            {breach.moment.elapsed, breach.aborts ? "m-bad" : "m-warn", "breach",
             fmt::format("{}: {}, expected {}", check.name, breach.observed, breach.expectation)});
      }
    }
    if (story_.abort)
      all.push_back({story_.abort_at.elapsed, "m-bad", "abort", story_.abort->words()});
    for (const NodeStory& node : story_.nodes) {
      if (node.lost)
        all.push_back(
            {node.lost->elapsed, "m-bad", "node lost", node.name + ": " + node.lost_reason});
    }
    if (story_.recovered_at)
      all.push_back(
          {story_.recovered_at->elapsed, "m-good", "recovered", "every check holds again"});
    for (const QuestionStory& one : story_.questions)
      all.push_back({one.asked.elapsed, "m-note", "asked", one.question});
    for (const NoteStory& note : story_.notes) {
      all.push_back({note.moment.elapsed, "m-note",
                     note.kind.empty() ? std::string_view("note") : std::string_view(note.kind),
                     note.text});
    }
    // What happens once goes before what may happen a thousand times.
    const auto is_breach = [](const Mark& mark) { return mark.word == "breach"; };
    if (all.size() > kMostMarks) {
      std::stable_partition(all.begin(), all.end(), std::not_fn(is_breach));
      all.resize(kMostMarks);
    }
    std::ranges::stable_sort(all, {}, &Mark::at);
    std::vector<double> rows;  // where each is free again
    for (const Mark& mark : all) {
      const std::string word = fmt::format("{} {}", name(mark.word, 16), elapsed_text(mark.at));
      const double width = static_cast<double>(columns_of(mark.word)) * kLetter + 56;
      // To the left of its line where there is no room to the right.
      const bool leftward = x(mark.at) + width > kRight;
      const double begin = leftward ? x(mark.at) - width : x(mark.at);
      std::size_t row = 0;
      while (row < rows.size() && rows[row] > begin) ++row;
      if (row == rows.size()) rows.push_back(0);
      rows[row] = begin + width;
      const double top = y_ + static_cast<double>(row) * 18;
      lines_.push_back({x(mark.at), top, mark.style});
      body_ += fmt::format(
          "<g class=\"{}\"><title>{}</title><text x=\"{:.1f}\" y=\"{:.1f}\"{}>{}</text></g>\n",
          mark.style, name(mark.words, 200), x(mark.at) + (leftward ? -5 : 5), top + 12,
          leftward ? " text-anchor=\"end\"" : "", word);
    }
    y_ += static_cast<double>(rows.size()) * 18 + (rows.empty() ? 0 : 4);
  }

  void phases() {
    const double top = y_ + 18;  // the ticks' words are above
    text(0, top + 14, "name", "phases");
    for (std::size_t n = 0; n < story_.phases.size(); ++n) {
      const auto& [phase, moment] = story_.phases[n];
      if (phase == v1::VERDICT) continue;  // it takes no time
      const std::string words = phase_text(phase);
      const bool last = n + 1 == story_.phases.size();
      const double end = last ? total_ : story_.phases[n + 1].second.elapsed;
      const double from = x(moment.elapsed);
      const double width = std::max(x(end) - from, 0.6);
      body_ += fmt::format(
          "<g class=\"p-{}\"><title>{}: {} to {}</title><rect x=\"{:.1f}\" y=\"{:.1f}\" "
          "width=\"{:.1f}\" height=\"20\"/>",
          words, words, elapsed_text(moment.elapsed), elapsed_text(end), from, top, width);
      if (static_cast<double>(words.size()) * kLetter + 8 < width)
        body_ +=
            fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>", from + 5, top + 14, words);
      body_ += "</g>\n";
    }
    y_ = top + 30;
  }

  struct Lane {
    std::vector<std::vector<const FaultStory*>> rows;  ///< None overlaps another in its row.
    bool bad = false;
  };

  static double end_of(const FaultStory& fault, double total) {
    if (fault.effect_ended) return fault.effect_ended->elapsed;
    if (fault.reverted) return fault.reverted->elapsed;
    if (fault.failed) return fault.failed->elapsed;
    return total;
  }

  void faults() {
    std::map<std::string, Lane> lanes;
    std::vector<std::string> order;
    std::size_t drawn = 0;
    std::size_t left_out = 0;
    for (const FaultStory& fault : story_.faults) {
      const bool bad = fault.failed || !fault.residue.empty();
      const auto [lane, is_new] = lanes.try_emplace(fault.node);
      if (is_new) order.push_back(fault.node);
      lane->second.bad = lane->second.bad || bad;
      auto& rows = lane->second.rows;
      auto free = std::ranges::find_if(rows, [&](const auto& row) {
        return end_of(*row.back(), total_) <= fault.injecting.elapsed;
      });
      const bool fits = free != rows.end() || rows.size() < kMostAtOnce;
      if (!fits || drawn == kMostBands) {
        ++left_out;
        continue;
      }
      ++drawn;
      (free == rows.end() ? rows.emplace_back() : *free).push_back(&fault);
    }
    if (order.size() > kMostLanes) {
      std::stable_partition(order.begin(), order.end(),
                            [&](const auto& node) { return lanes[node].bad; });
      order.resize(kMostLanes);
    }
    for (const std::string& node : order) {
      const Lane& lane = lanes[node];
      text(0, y_ + 14, "name", name(node));
      const double height = static_cast<double>(lane.rows.size()) * (kBand + 3) + 2;
      behind_ += fmt::format(
          "<rect class=\"lane\" x=\"{}\" y=\"{:.1f}\" width=\"{}\" height=\"{:.1f}\"/>\n", kLeft,
          y_, kRight - kLeft, height);
      for (std::size_t row = 0; row < lane.rows.size(); ++row) {
        for (const FaultStory* const fault : lane.rows[row])
          band(*fault, y_ + 2 + static_cast<double>(row) * (kBand + 3));
      }
      y_ += height + 6;
    }
    if (lanes.size() > order.size() || left_out > 0) {
      text(kLeft, y_ + 12, "more",
           fmt::format("{} faults in all on {} nodes; not all are drawn", story_.faults.size(),
                       lanes.size()));
      y_ += 20;
    }
    y_ += 6;
  }

  void band(const FaultStory& fault, double top) {
    const bool bad = fault.failed || !fault.residue.empty();
    const double from = x(fault.applied ? fault.applied->elapsed : fault.injecting.elapsed);
    const double to = x(fault.at_once() ? 0 : end_of(fault, total_));
    std::string tip = fault_title(fault);
    if (!fault.evidence_words.empty()) tip += ": " + fault.evidence_words;
    if (fault.failed) tip += ": " + fault.failure;
    body_ +=
        fmt::format("<g class=\"{}\"><title>{}</title>", bad ? "band bad" : "band", name(tip, 300));
    const std::string& words = fault.words.empty() ? fault.kind : fault.words;
    const double middle = top + kBand / 2;
    if (fault.at_once()) {
      body_ += fmt::format(
          "<path d=\"M{0:.1f} {2:.1f}l7 7l-7 7l-7 -7z\"/><text class=\"beside\" x=\"{1:.1f}\" "
          "y=\"{3:.1f}\"{4}>{5}</text>",
          from, from > kRight - 180 ? from - 11 : from + 11, middle - 7, middle + 4,
          from > kRight - 180 ? " text-anchor=\"end\"" : "", name(words, 28));
    } else {
      const double width = std::max(to - from, 1.5);
      body_ +=
          fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" rx=\"3\"/>",
                      from, top, width, kBand);
      const int fits = static_cast<int>((width - 10) / kLetter);
      if (fits >= 8)
        body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>", from + 6, middle + 4,
                             name(words, fits));
    }
    body_ += "</g>\n";
  }

  void checks() {
    std::vector<const CheckStory*> drawn;
    for (const CheckStory& check : story_.checks) {
      if (check.asked > 0) drawn.push_back(&check);
    }
    const std::size_t asked = drawn.size();
    if (drawn.size() > kMostCharts) {
      std::stable_partition(drawn.begin(), drawn.end(), [&](const CheckStory* one) {
        return !one->breaches.empty() || !story_.stands(*one);
      });
      drawn.resize(kMostCharts);
    }
    for (const CheckStory* const check : drawn) chart(*check);
    if (drawn.size() < asked) {
      text(kLeft, y_ + 12, "more",
           fmt::format("{} more checks are in the table below", asked - drawn.size()));
      y_ += 20;
    }
  }

  void chart(const CheckStory& check) {
    const ExpectationStory* const watched = check.watched();
    const auto stretches = check.curve.stretches();
    y_ += kBetween;
    const double top = y_;
    const double bottom = y_ + kChart;
    double most = 0;
    double least = 0;
    for (const Curve::Stretch& one : stretches) {
      if (one.most) most = std::max(most, one.most->number);
      if (one.least) least = std::min(least, one.least->number);
    }
    const bool is_bounded = watched != nullptr && watched->bound.has_value();
    const double bound = is_bounded ? *watched->bound : 0;
    most = std::max(most, bound);
    least = std::min(least, bound);
    if (most <= least) most = least + 1;
    const double room = (most - least) * 0.08;
    const auto y = [&](double number) {
      return bottom - (number - least) / (most - least + room) * kChart;
    };

    text(kLeft, top - 8, "title",
         name(check.name, 60) + fmt::format(" <tspan>{}</tspan>", watched == nullptr
                                                                      ? "latency"
                                                                      : name(watched->text, 60)));
    behind_ +=
        fmt::format("<rect class=\"lane\" x=\"{}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\"/>\n",
                    kLeft, top, kRight - kLeft, kChart);
    // What does not hold is shaded, so that it is seen at a width where a curve is one line.
    for (std::size_t n = 0; n < stretches.size(); ++n) {
      if (stretches[n].holds) continue;
      const double from = x(stretches[n].from);
      while (n + 1 < stretches.size() && !stretches[n + 1].holds) ++n;
      const double to = n + 1 < stretches.size() ? x(stretches[n + 1].from) : x(stretches[n].to);
      behind_ += fmt::format(
          "<rect class=\"false\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\"/>\n",
          from, top, std::max(to - from, 1.5), kChart);
    }
    if (is_bounded) {
      body_ +=
          fmt::format("<line class=\"bound\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
                      kLeft, kRight, y(bound), y(bound));
    }
    // The greatest number, and the least: what the curve's height means.
    const std::string_view style = "scale";
    text(kLeft - 6, y(most) + 4, style, name(number_text(watched, most), 12));
    if (is_bounded && std::abs(y(bound) - y(most)) > 14 && std::abs(y(bound) - bottom) > 14)
      text(kLeft - 6, y(bound) + 4, style, name(number_text(watched, bound), 12));
    text(kLeft - 6, bottom, style, name(number_text(watched, least), 12));
    curve(check, y, bottom);
    y_ = bottom;
  }

  template <typename Y>
  void curve(const CheckStory& check, Y y, double bottom) {
    std::string path;
    std::string crosses;
    bool down = false;  // the pen is
    const auto to = [&](const Curve::Peak& peak) {
      path += fmt::format("{}{:.1f} {:.1f}", down ? "L" : "M", x(peak.at), y(peak.number));
      down = true;
    };
    double crossed = -10;
    for (const Curve::Stretch& one : check.curve.stretches()) {
      if (one.gap && x(one.from) - crossed > 5) {
        crossed = x(one.from);
        crosses += fmt::format("M{:.1f} {:.1f}l5 5m0 -5l-5 5", crossed - 2.5, bottom - 8);
      }
      if (!one.least) {
        down = false;
        continue;
      }
      const bool rises = one.least->at <= one.most->at;
      const bool fresh = !down;
      to(rises ? *one.least : *one.most);
      if (one.least->at != one.most->at) {
        to(rises ? *one.most : *one.least);
      } else if (fresh) {
        path += "h0.1";  // a single answer is seen as well
      }
    }
    if (!path.empty()) body_ += "<path class=\"curve\" d=\"" + path + "\"/>\n";
    if (!crosses.empty())
      body_ += "<g><title>no answer</title><path class=\"gap\" d=\"" + crosses + "\"/></g>\n";
  }

  /// Behind everything, now that its height is known.
  void grid() {
    const double tick = tick_of(total_);
    std::string lines;
    for (int n = 0; n * tick <= total_ * 1.0001 && n < 30; ++n) {
      const double at = x(n * tick);
      lines += fmt::format(
          "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>"
          "<text class=\"tick\" x=\"{0:.1f}\" y=\"{3:.1f}\">{4}</text>\n",
          at, axis_at_ + 16, y_, axis_at_ + 11, tick_text(n * tick, tick));
    }
    for (const Down& one : lines_) {
      lines += fmt::format(
          "<line class=\"{}\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
          one.style, one.x, one.x, one.top, y_);
    }
    behind_ += lines;
  }

  struct Down {
    double x, top;
    std::string_view style;
  };

  const Story& story_;
  double total_ = 1;
  double y_ = 0;
  double axis_at_ = 0;
  std::vector<Down> lines_;
  std::string behind_;
  std::string body_;
};

}  // namespace

std::string timeline_svg(const Story& story) { return Timeline(story).svg(); }

std::string number_text(const ExpectationStory* metric, double number) {
  if (metric == nullptr || metric->is_time()) return number == 0 ? "0" : ms_text(number);
  return fmt::format("{:.4g}{}", number, metric->metric == "error_rate" ? "%" : "");
}

std::string elapsed_text(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  if (seconds < 100) return fmt::format("{:.2f}s", seconds);
  return clock_text(seconds);
}

}  // namespace squall::report
