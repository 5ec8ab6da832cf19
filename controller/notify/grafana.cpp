#include <fmt/format.h>

#include <set>
#include <utility>

#include "controller/notify/notice.h"
#include "controller/notify/receiver.h"

namespace squall::notify {
namespace {

using Tags = std::vector<std::string>;

class Grafana final : public Receiver {
 public:
  Grafana(std::string url, std::string token) : url_(std::move(url)), token_(std::move(token)) {
    while (url_.ends_with('/')) url_.pop_back();
  }

  std::string name() const override { return "Grafana at " + shown(url_); }

  std::vector<Letter> hear(const v1::Event& event, const report::Story& story) override {
    std::vector<Letter> letters;
    switch (event.event_case()) {
      case v1::Event::kFaultEffectEnded:
        add_fault(event.fault_effect_ended().fault(), event, story, letters);
        break;
      case v1::Event::kFaultFailed:
        add_fault(event.fault_failed().fault(), event, story, letters);
        break;
      case v1::Event::kCheckBreached:
      case v1::Event::kNoted: {
        const auto notice = notice_of(event, story);
        add(story, event.elapsed(), std::nullopt, {notice->event}, notice->sentence, letters);
        break;
      }
      case v1::Event::kRunEnded: {
        // Whose end nobody told: they lasted as long as the run.
        for (const report::FaultStory& fault : story.faults) {
          if (fault.applied) add_fault(fault.id, event, story, letters);
        }
        const std::string verdict = report::verdict_text(event.run_ended().verdict());
        add(story, story.started ? story.started->elapsed : 0, event.elapsed(),
            {"run", "verdict:" + verdict},
            fmt::format("{}: {}\n{}", verdict, story.run.plan(), event.run_ended().sentence()),
            letters);
        break;
      }
      default:
        break;
    }
    return letters;
  }

  checks::Request request(const Letter& letter) const override {
    checks::Request request;
    request.url = url_ + "/api/annotations";
    request.method = "POST";
    request.headers = {{"Content-Type", "application/json"}, {"Accept", "application/json"}};
    if (!token_.empty()) request.headers.emplace_back("Authorization", "Bearer " + token_);
    request.body = letter.body;
    return request;
  }

 private:
  void add_fault(const std::string& id, const v1::Event& event, const report::Story& story,
                 std::vector<Letter>& letters) {
    for (const report::FaultStory& fault : story.faults) {
      if (fault.id != id || !fault.applied || !told_faults_.insert(id).second) continue;
      Tags tags = {"fault", "node:" + fault.node};
      if (!fault.kind.empty()) tags.push_back("kind:" + fault.kind);
      add(story, fault.applied->elapsed,
          fault.effect_ended ? fault.effect_ended->elapsed : event.elapsed(), tags,
          fmt::format("{} on {}", fault.words, fault.node), letters);
    }
  }

  void add(const report::Story& story, double from, std::optional<double> to, Tags tags,
           const std::string& text, std::vector<Letter>& letters) {
    const auto ms = [&](double elapsed) { return unix_ns(story, elapsed) / 1'000'000; };
    tags.insert(tags.begin(), "squall");
    tags.push_back("run:" + story.run.run());
    tags.insert(tags.end(), story.run.tags().begin(), story.run.tags().end());
    Json annotation = {{"time", ms(from)}};
    if (to) annotation["timeEnd"] = ms(*to);
    annotation["tags"] = tags;
    annotation["text"] = text;
    letters.push_back(
        {"annotation", fmt::format("{}-{}", story.run.run(), ++told_), dump(annotation)});
  }

  std::string url_;
  std::string token_;
  std::set<std::string> told_faults_;
  std::uint64_t told_ = 0;
};

}  // namespace

StatusOr<std::unique_ptr<Receiver>> make_grafana(const std::string& url, const std::string& token) {
  if (Status fits = check_url(url); !fits.ok()) return fits;
  return std::make_unique<Grafana>(url, token);
}

}  // namespace squall::notify
