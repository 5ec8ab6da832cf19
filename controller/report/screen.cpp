#include "controller/report/screen.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <optional>

#include "controller/report/picture.h"
#include "controller/report/story.h"
#include "controller/report/text.h"

namespace squall::report {
namespace {

/// The terminal may be gone: the run goes on and the log has everything.
void write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

class PlainLines final : public Screen {
 public:
  PlainLines(int descriptor, const Style& style) : descriptor_(descriptor), style_(style) {}

  void on(const v1::Event& event) override {
    story_.take(event);
    const std::string words = plain_line(story_, event, style_);
    if (words.empty()) return;
    // To the millisecond: 2026-11-22T07:15:49.123Z
    const std::string at = event.at().size() > 23 ? event.at().substr(0, 23) + "Z" : event.at();
    write_all(descriptor_, at + "  " + words + "\n");
  }
  void tick(MonotonicTime) override {}
  void finish() override {}

 private:
  int descriptor_;
  Style style_;
  Story story_;
};

class LiveView final : public Screen {
 public:
  LiveView(int descriptor, const Style& style) : descriptor_(descriptor), style_(style) {}
  ~LiveView() override { finish(); }

  void on(const v1::Event& event) override {
    const MonotonicTime now = monotonic_now();
    story_.take(event);
    if (!start_) {
      start_ = now -
               std::chrono::duration_cast<Duration>(std::chrono::duration<double>(event.elapsed()));
    }
    // What a person must see at once is drawn at once.
    const bool urgent =
        event.has_abort_decided() || event.has_check_breached() || event.has_run_ended();
    if (urgent) draw(now);
  }

  void tick(MonotonicTime now) override {
    constexpr Duration kLeast = std::chrono::milliseconds(95);
    if (!drawn_ || now - *drawn_ >= kLeast) draw(now);
  }

  void finish() override {
    if (finished_) return;
    if (start_) draw(monotonic_now());
    finished_ = true;
    if (height_ > 0) write_all(descriptor_, "\x1b[?25h");
  }

 private:
  void draw(MonotonicTime now) {
    if (finished_ || !start_) return;
    const Style size = style_of(descriptor_);  // windows are resized
    // One column stays free: on a full line, erasing to its end would erase its last character.
    style_.width = size.width - 1;
    style_.height = size.height;
    // What the terminal made of the lines of another width, nobody can say: it begins anew.
    const bool resized = height_ > 0 && (style_.width != width_ || style_.height != rows_);
    width_ = style_.width;
    rows_ = style_.height;
    const double elapsed =
        story_.ended ? story_.latest.elapsed : std::chrono::duration<double>(now - *start_).count();
    const std::vector<std::string> lines = picture(story_, elapsed, style_);
    // One write a picture, so that no half of one is ever seen.
    std::string out = resized        ? "\x1b[H\x1b[2J"
                      : height_ == 0 ? "\x1b[?25l"
                                     : fmt::format("\x1b[{}A", height_);
    out += "\r";
    for (const std::string& line : lines) out += line + "\x1b[K\n";
    out += "\x1b[J";
    write_all(descriptor_, out);
    height_ = lines.size();
    drawn_ = now;
  }

  int descriptor_;
  Style style_;
  Story story_;
  std::optional<MonotonicTime> start_;  ///< The run's first event, on this clock.
  std::optional<MonotonicTime> drawn_;
  std::size_t height_ = 0;  ///< Lines of the picture on the terminal.
  int width_ = 0;           ///< Of the terminal that it was drawn for.
  int rows_ = 0;
  bool finished_ = false;
};

}  // namespace

std::unique_ptr<Screen> make_screen(int descriptor, const Style& style) {
  if (style.live) return std::make_unique<LiveView>(descriptor, style);
  return std::make_unique<PlainLines>(descriptor, style);
}

}  // namespace squall::report
