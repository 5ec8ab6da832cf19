#include <fmt/format.h>

#include <utility>

#include "controller/notify/notice.h"
#include "controller/notify/receiver.h"
#include "experiments/base/units.h"

namespace squall::notify {
namespace {

/// Of a header's and a section's text. Source: https://docs.slack.dev/reference/block-kit/blocks
constexpr std::size_t kLongestHeader = 150;
constexpr std::size_t kLongestSection = 3000;

/// The first so many bytes, cut between characters.
std::string shortened(std::string text, std::size_t longest) {
  if (text.size() <= longest) return text;
  std::size_t end = longest - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

/// The three characters that Slack's markup gives a meaning everywhere.
std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '&') {
      safe += "&amp;";
    } else if (c == '<') {
      safe += "&lt;";
    } else if (c == '>') {
      safe += "&gt;";
    } else {
      safe += c;
    }
  }
  return safe;
}

std::string headline(const Notice& notice, const v1::Event& event, const report::Story& story) {
  const std::string& plan = story.run.plan();
  if (notice.event == "run_started") return "▶ begun: " + plan;
  if (notice.event == "breach") return "✗ breach: " + plan;
  if (notice.event == "abort") return "■ aborted: " + plan;
  if (notice.event == "note") return "✎ note: " + plan;
  const v1::Verdict verdict = event.run_ended().verdict();
  return fmt::format("{} {}: {}", verdict == v1::HELD ? "✓" : "✗", report::verdict_text(verdict),
                     plan);
}

class Slack final : public Receiver {
 public:
  explicit Slack(std::string url) : url_(std::move(url)) {}

  std::string name() const override { return "Slack at " + shown(url_); }

  std::vector<Letter> hear(const v1::Event& event, const report::Story& story) override {
    const auto notice = notice_of(event, story);
    if (!notice) return {};
    const std::string title = headline(*notice, event, story);
    std::string context = fmt::format(
        "run {} · {} · {} in", story.run.run(), report::phase_text(story.phase()),
        format_measured(
            std::chrono::duration_cast<Duration>(std::chrono::duration<double>(event.elapsed()))));
    if (!story.run.file().empty()) context += " · " + story.run.file();
    // Cut after it is escaped: Slack counts that, and half an entity is shown as it stands.
    const Json blocks = {
        {{"type", "header"},
         {"text", {{"type", "plain_text"}, {"text", shortened(title, kLongestHeader)}}}},
        {{"type", "section"},
         {"text",
          {{"type", "mrkdwn"},
           {"text", escaped(shortened(notice->sentence, kLongestSection / 5))}}}},
        {{"type", "context"},
         {"elements",
          Json::array({{{"type", "mrkdwn"},
                        {"text", escaped(shortened(context, kLongestSection / 5))}}})}}};
    // For notifications, and where blocks are not shown.
    const Json message = {{"text", escaped(shortened(title, kLongestSection / 5))},
                          {"blocks", blocks}};
    return {{notice->event, fmt::format("{}-{}", story.run.run(), ++told_), dump(message)}};
  }

  checks::Request request(const Letter& letter) const override {
    checks::Request request;
    request.url = url_;
    request.method = "POST";
    request.headers = {{"Content-Type", "application/json"}};
    request.body = letter.body;
    return request;
  }

 private:
  std::string url_;
  std::uint64_t told_ = 0;
};

}  // namespace

StatusOr<std::unique_ptr<Receiver>> make_slack(const std::string& url) {
  if (Status fits = check_url(url); !fits.ok()) return fits;
  return std::make_unique<Slack>(url);
}

}  // namespace squall::notify
