// The commands that walk a plan, or show what that would be: run, inject and plan.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <utility>

#include "controller/cli/commands.h"
#include "controller/cli/github.h"
#include "controller/cli/keys.h"
#include "controller/cli/outline.h"
#include "controller/cli/resolved.h"
#include "controller/cli/run_socket.h"
#include "controller/cli/telling.h"
#include "controller/fleet/fleet.h"
#include "controller/fleet/local_node.h"
#include "controller/fleet/wake.h"
#include "controller/history/history.h"
#include "controller/load/load.h"
#include "controller/report/event_log.h"
#include "controller/report/reports.h"
#include "controller/report/screen.h"
#include "controller/report/style.h"
#include "controller/run/engine.h"
#include "controller/run/preflight.h"
#include "controller/run/schedule.h"
#include "experiments/base/diagnostic.h"
#include "experiments/base/ids.h"
#include "experiments/base/state.h"
#include "experiments/checks/check.h"
#include "experiments/plan/load.h"

namespace squall::cli {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using Nodes = std::vector<std::unique_ptr<fleet::Node>>;

/// A live view moves; ten pictures a second look smooth.
constexpr Duration kTick = std::chrono::milliseconds(100);

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

/// Shows them, and takes the plan that is right.
std::optional<v1::Plan> taken(plan::Loaded loaded) {
  const std::string text =
      format_diagnostics(loaded.diagnostics, report::style_of(STDERR_FILENO).colour);
  std::fwrite(text.data(), 1, text.size(), stderr);
  annotate(std::span(&loaded.diagnostics, 1));
  return std::move(loaded.plan);
}

std::uint64_t draw_seed() {
  std::random_device device;
  // Small enough to be typed again.
  return device();
}

/// SIGINT, SIGTERM, SIGHUP and the q key, for as long as a run goes on; and a person's answers.
class Interrupts {
 public:
  Interrupts(asio::io_context& loop, std::function<void(const char*)> interrupt, bool keys)
      : signals_(loop, SIGINT, SIGTERM, SIGHUP), input_(loop), interrupt_(std::move(interrupt)) {
    await_signal();
    if (auto taken = keys ? Keys::take() : std::nullopt) keys_.emplace(*std::move(taken));
    // A duplicate: closing it must leave standard input open.
    if (keys_) input_.assign(dup(STDIN_FILENO));
    if (keys_) await_key();
  }

  /// The terminal as it was.
  void restore() {
    if (keys_) keys_->restore();
  }

  /// Whether somebody is there who can answer.
  bool can_ask() const { return keys_.has_value(); }

  /// Until y or n is pressed.
  asio::awaitable<run::Answer> ask() {
    co_await asio::this_coro::throw_if_cancelled(false);
    answer_.reset();
    while (!answer_) {
      const bool going = co_await answered_.wait();
      if (!going) co_return run::Answer{false, "nobody: the run was over"};
    }
    co_return run::Answer{*answer_, "a person at the terminal"};
  }

 private:
  void await_signal() {
    signals_.async_wait([this](const boost::system::error_code& cancelled, int number) {
      if (cancelled) return;
      await_signal();
      interrupt_(number == SIGINT ? "SIGINT" : number == SIGTERM ? "SIGTERM" : "SIGHUP");
    });
  }

  void await_key() {
    input_.async_wait(asio::posix::stream_descriptor::wait_read,
                      [this](const boost::system::error_code& cancelled) {
                        if (cancelled) return;
                        char key = 0;
                        const ssize_t got = read(input_.native_handle(), &key, 1);
                        if (got <= 0) return;  // the terminal is gone; SIGHUP says so
                        await_key();
                        if (key == 'q' || key == 'Q') interrupt_("the q key");
                        const bool yes = key == 'y' || key == 'Y';
                        if (!yes && key != 'n' && key != 'N') return;
                        answer_ = yes;
                        answered_.notify();
                      });
  }

  asio::signal_set signals_;
  asio::posix::stream_descriptor input_;
  std::function<void(const char*)> interrupt_;
  std::optional<Keys> keys_;
  std::optional<bool> answer_;
  fleet::Wake answered_;
};

bool asks(const google::protobuf::RepeatedPtrField<v1::Step>& steps) {
  return std::ranges::any_of(steps, [](const v1::Step& step) {
    return step.has_ask() || asks(step.parallel().steps()) || asks(step.repeat().steps());
  });
}

/// Redraws the live view until told to stop.
asio::awaitable<void> tick(report::Screen& screen, const bool& done, fleet::Wake& stop) {
  while (!done) {
    screen.tick(monotonic_now());
    const bool going = co_await stop.wait(monotonic_now() + kTick);
    if (!going) co_return;
  }
}

asio::awaitable<void> close_all(const Nodes& nodes) {
  std::size_t open = nodes.size();
  fleet::Wake closed;
  const auto executor = co_await asio::this_coro::executor;
  for (const auto& node : nodes) {
    asio::co_spawn(executor, node->close(), [&open, &closed](const std::exception_ptr&) {
      --open;
      closed.notify();
    });
  }
  while (open > 0) {
    const bool going = co_await closed.wait();
    if (!going) co_return;
  }
}

/// A report as a file of the run's folder, and the file that was asked for elsewhere.
struct ReportFile {
  const char* what;
  const char* name;
  std::string Invocation::*elsewhere;
  std::string (*write)(const report::Story&);
};

constexpr std::array<ReportFile, 4> kReports = {{
    {"json", "report.json", &Invocation::json_file, report::json_report},
    {"junit", "junit.xml", &Invocation::junit_file, report::junit_report},
    {"html", "report.html", &Invocation::html_file, report::html_report},
    {"md", "report.md", &Invocation::md_file, report::markdown_report},
}};

/// The reports that were asked for elsewhere than in the run's folder, made before anything is
/// started: a path that cannot be written to is told before the run, not after it.
Status prepare_reports(const Invocation& said) {
  for (const ReportFile& one : kReports) {
    const std::string& file = said.*one.elsewhere;
    if (file.empty()) continue;
    if (Status made = report::prepare_report(file); !made.ok()) return made;
  }
  return ok();
}

/// Each that can be, whatever becomes of the others; `files` gets those of the run's folder that
/// exist now. False: not all were, which is told.
bool write_reports(const fs::path& folder, const Invocation& said, const report::Story& story,
                   std::vector<std::pair<std::string, fs::path>>& files) {
  bool all = true;
  const auto write = [&all](const fs::path& path, const std::string& text) {
    const Status written = report::write_report(path, text);
    if (!written.ok()) complain(message_of(written));
    all = all && written.ok();
    return written.ok();
  };
  for (const ReportFile& one : kReports) {
    const std::string text = one.write(story);
    if (write(folder / one.name, text)) files.emplace_back(one.what, folder / one.name);
    if (const std::string& elsewhere = said.*one.elsewhere; !elsewhere.empty())
      write(elsewhere, text);
  }
  return all;
}

/// The run as it was told, for where its log could not take all of it.
class AsTold final : public report::Sink {
 public:
  void on(const v1::Event& event) override { story_.take(event); }
  report::Story& story() { return story_; }

 private:
  report::Story story_;
};

/// Everything of one run that its end has to wait for.
struct Session {
  asio::io_context loop{1};
  Nodes nodes;  // gone before the loop is: their timers are its own
  v1::RunEnded ended;
  bool over = false;      // the engine has ended
  bool in_haste = false;  // a second signal: nothing more is waited for
  bool done = false;
  fleet::Wake wake;
};

/// Everything chosen, and nobody asked yet.
struct Chosen {
  v1::ResolvedPlan resolved;
  std::vector<run::Step> schedule;
};

/// What to walk: a plan, a plan that was resolved before, or a run to be walked again. Says why
/// not.
std::optional<Chosen> choose(const Invocation& said) {
  Chosen chosen;
  v1::ResolvedPlan& resolved = chosen.resolved;
  const bool again = !said.replay.empty();
  if (!again && said.files.empty()) {
    complain("which plan? name its file, or a run by --replay");
    return std::nullopt;
  }
  const fs::path kept = again ? run_folder(said, said.replay) / "plan.json" : fs::path();
  if (again || is_resolved(said.files.front())) {
    auto read = read_resolved(again ? kept : fs::path(said.files.front()));
    if (!read.ok()) {
      complain(escape_controls(message_of(read.status())));
      return std::nullopt;
    }
    if (said.seed || !said.given.set.empty() || !said.given.params_files.empty()) {
      complain("everything of this plan is chosen already: leave --seed, --set and --params out");
      return std::nullopt;
    }
    resolved = *std::move(read);
  } else {
    auto plan = load_plan(said.files.front(), said.given);
    if (!plan) return std::nullopt;
    resolved.set_file(said.files.front());
    resolved.set_seed(said.seed ? *said.seed : plan->has_seed() ? plan->seed() : draw_seed());
    *resolved.mutable_plan() = *std::move(plan);
  }
  auto schedule = run::make_schedule(resolved.plan(), resolved.seed());
  if (!schedule.ok()) {
    complain(resolved.file() + ": " + message_of(schedule.status()));
    return std::nullopt;
  }
  chosen.schedule = *std::move(schedule);
  return chosen;
}

/// The nodes of a plan, none contacted yet. Says why not.
bool make_nodes(const v1::ResolvedPlan& resolved, const Invocation& said, Session& session) {
  fleet::Options options;
  options.tls_dir = said.tls_dir;
  auto made = fleet::make_nodes(resolved.plan(), options);
  if (!made.ok()) {
    complain(resolved.file() + ": " + message_of(made.status()));
    return false;
  }
  session.nodes = *std::move(made);
  return true;
}

std::vector<fleet::Node*> pointers_to(const Nodes& nodes) {
  std::vector<fleet::Node*> pointers;
  for (const auto& node : nodes) pointers.push_back(node.get());
  return pointers;
}

/// Asks the nodes, which stay connected.
std::vector<run::NodePreview> ask_nodes(Session& session, const Chosen& chosen, bool then_close) {
  std::vector<run::NodePreview> previews;
  const std::vector<fleet::Node*> pointers = pointers_to(session.nodes);
  const std::span<fleet::Node* const> nodes(pointers);
  const std::span<const run::Step> schedule(chosen.schedule);
  const auto ask = [&]() -> asio::awaitable<void> {
    previews = co_await run::preview(chosen.resolved.plan(), schedule, nodes);
    if (then_close) co_await close_all(session.nodes);
  };
  asio::co_spawn(session.loop, ask(), asio::detached);
  session.loop.run();
  session.loop.restart();
  return previews;
}

/// Whether the world is as it was when the plan was resolved. Says what is not.
bool is_as_it_was(Session& session, const Chosen& chosen) {
  if (chosen.resolved.world().empty()) return true;
  const std::vector<run::NodePreview> now = ask_nodes(session, chosen, false);
  bool reached = true;
  for (const run::NodePreview& node : now) {
    if (node.reached.ok()) continue;
    complain(fmt::format("node {}: {}", node.name, message_of(node.reached)));
    reached = false;
  }
  const std::vector<std::string> told = changes(chosen.resolved, now);
  for (const std::string& change : told) complain(escape_controls(change));
  if (reached && told.empty()) return true;
  complain("the world is not as it was when this plan was resolved; nothing was started");
  return false;
}

/// The whole of a run, whoever chose what is walked. Returns the exit code.
int walk(const Invocation& said, const Chosen& chosen) {
  const v1::Plan& plan = chosen.resolved.plan();
  const std::string& file = chosen.resolved.file();
  Session session;
  if (!make_nodes(chosen.resolved, said, session)) return kRefused;
  // Wherever its nodes are, who walks it is here.
  if (const auto halt = read_halt(fleet::local_latch(default_state_dir()))) {
    complain("this machine: " + escape_controls(in_words(*halt)));
    return kUnreachable;
  }

  if (asks(plan.method()) && said.no_input.empty() && !Keys::take()) {
    complain(
        file +
        ": the plan asks a person, and there is no terminal to answer at; --no-input=skip goes "
        "on without, --no-input=fail ends the run there");
    return kRefused;
  }
  if (const Status prepared = prepare_reports(said); !prepared.ok()) {
    complain(message_of(prepared) + "; nothing was started");
    return kRefused;
  }
  auto telling = Telling::make(said);
  if (!telling.ok()) {
    complain(message_of(telling.status()) + "; nothing was started");
    return kRefused;
  }
  if (!is_as_it_was(session, chosen)) return kRefused;
  const std::string id = new_run_id();
  const fs::path folder = fs::path(runs_folder(said)) / id;
  auto log = report::EventLog::create(folder);
  if (!log.ok()) {
    complain(message_of(log.status()) + "; --runs-dir names another place for runs");
    return kRefused;
  }
  v1::ResolvedPlan kept_plan = chosen.resolved;
  kept_plan.clear_world();
  const Status plan_kept = write_resolved(folder / "plan.json", kept_plan);
  if (!plan_kept.ok()) complain("it cannot be walked again: " + message_of(plan_kept));
  const report::Style style = report::style_of(STDERR_FILENO);
  const auto screen = report::make_screen(STDERR_FILENO, style);
  (*log)->tell(*screen);
  AsTold as_told;
  (*log)->tell(as_told);
  telling->listen(**log);

  run::Parts parts;
  parts.plan = plan;
  parts.run = id;
  parts.file = file;
  parts.seed = chosen.resolved.seed();
  parts.version = SQUALL_VERSION;
  parts.schedule = chosen.schedule;
  parts.nodes = pointers_to(session.nodes);
  parts.make_check = checks::make_check;
  parts.make_load = [&folder](const v1::Load& load) { return load::make_load(load, folder); };
  parts.tell = [&log](v1::Event event) { (*log)->write(std::move(event)); };
  std::optional<Interrupts> interrupts;
  parts.ask = [&](const std::string&) -> asio::awaitable<run::Answer> {
    if (!said.no_input.empty()) {
      co_return run::Answer{said.no_input == "skip", "--no-input=" + said.no_input};
    }
    co_return co_await interrupts->ask();
  };
  run::Engine engine(std::move(parts));

  int signals = 0;
  interrupts.emplace(
      session.loop,
      [&](const char* by) {
        // Even what comes after the run, ending a private daemon, is not waited for twice.
        if (session.over || ++signals > 1) session.in_haste = true;
        if (session.over) session.loop.stop();
        engine.interrupt(by);
      },
      style.live || asks(plan.method()));

  const auto work = [&]() -> asio::awaitable<void> {
    session.ended = co_await engine.run();
    session.over = true;
    if (!session.in_haste) co_await close_all(session.nodes);
    session.done = true;
    // Renewals, keys and pictures would go on for ever.
    session.loop.stop();
  };
  std::string thrown;
  asio::co_spawn(session.loop, work(), [&](const std::exception_ptr& failed) {
    if (!failed) return;
    try {
      std::rethrow_exception(failed);
    } catch (const std::exception& what) {
      thrown = what.what();
    }
    session.loop.stop();
  });
  Told told;
  told.note = [&](v1::Noted noted) {
    v1::Event event;
    *event.mutable_noted() = std::move(noted);
    (*log)->write(std::move(event));
  };
  told.halt = [&](const v1::HaltRequest& halt) { engine.halt(halt.by(), halt.reason()); };
  auto socket = RunSocket::start(session.loop, folder, std::move(told));
  if (!socket.ok()) complain("other terminals cannot reach it: " + message_of(socket.status()));
  if (style.live) {
    asio::co_spawn(session.loop, tick(*screen, session.done, session.wake), asio::detached);
  }
  session.loop.run();
  interrupts->restore();
  screen->finish();
  if (!thrown.empty()) {
    complain("a fault of squall's own: " + thrown);
    return kInternal;
  }

  std::vector<std::pair<std::string, fs::path>> files = {{"log", (*log)->path()}};
  const Status logged = (*log)->flush();
  bool kept = logged.ok();
  if (!kept) complain("the log is incomplete: " + message_of(logged));
  // Reports are of what was read back, as far as that can be.
  auto read = kept ? report::read_story((*log)->path()) : StatusOr<report::Story>(logged);
  if (kept && !read.ok()) complain(message_of(read.status()));
  report::Story& story = read.ok() ? *read : as_told.story();
  kept = kept && read.ok() && plan_kept.ok();
  kept = write_reports(folder, said, story, files) && kept;
  // What was found is told all the same; but nobody may take for good a run that is not on record.
  int code = static_cast<int>(session.ended.exit_code());
  if (code == kSuccess && !kept) code = kInternal;
  if (story.ended) story.ended->set_exit_code(static_cast<std::uint32_t>(code));
  print(said.output == "json" ? report::json_report(story)
                              : report::text_report(story, report::style_of(STDOUT_FILENO), files));
  tell_github(story);
  if (session.in_haste) {
    // No destructor may wait for a node that does not answer. A private daemon is told by its
    // parent's death, and reverts.
    if (socket.ok()) socket->reset();
    std::fflush(nullptr);
    std::_Exit(code);
  }
  // All is told here and on disk: the run is over, whoever else has still to be told of it.
  if (socket.ok()) socket->reset();
  // What fails here, the next who asks for the history reads from the log.
  static_cast<void>(history::remember(folder));
  telling->finish();
  return code;
}

}  // namespace

std::optional<v1::Plan> load_plan(const std::string& file, const plan::Given& given) {
  return taken(plan::load_file(file, given));
}

int run_plan(const Invocation& said) {
  const auto chosen = choose(said);
  return chosen ? walk(said, *chosen) : kRefused;
}

int inject(const Invocation& said) {
  plan::ByHand by_hand = said.by_hand;
  // network '{delay: 200ms}' is what 'network: {delay: 200ms}' is.
  by_hand.fault = said.files.front();
  if (said.files.size() > 1 && by_hand.fault.find(':') == by_hand.fault.npos) by_hand.fault += ":";
  for (std::size_t n = 1; n < said.files.size(); ++n) by_hand.fault += " " + said.files[n];
  auto plan = taken(plan::load_by_hand(by_hand, said.given));
  if (!plan) return kRefused;
  Chosen chosen;
  chosen.resolved.set_file("inject");
  chosen.resolved.set_seed(said.seed ? *said.seed : draw_seed());
  *chosen.resolved.mutable_plan() = *std::move(plan);
  auto schedule = run::make_schedule(chosen.resolved.plan(), chosen.resolved.seed());
  if (!schedule.ok()) {
    complain("inject: " + message_of(schedule.status()));
    return kRefused;
  }
  chosen.schedule = *std::move(schedule);
  return walk(said, chosen);
}

int plan(const Invocation& said) {
  if (!said.out_file.empty() && fs::exists(said.out_file) && !is_resolved(said.out_file)) {
    complain(escape_controls(said.out_file) +
             " is there already, and is no resolved plan; --out names another file");
    return kRefused;
  }
  const auto chosen = choose(said);
  if (!chosen) return kRefused;
  Session session;
  if (!make_nodes(chosen->resolved, said, session)) return kRefused;
  const std::vector<run::NodePreview> previews = ask_nodes(session, *chosen, true);
  const Outline outline{chosen->resolved.plan(), chosen->resolved.file(), chosen->resolved.seed(),
                        chosen->schedule, previews};
  print(said.output == "json" ? outline_json(outline)
                              : outline_text(outline, report::style_of(STDOUT_FILENO)));
  bool reached = true;
  for (const run::NodePreview& node : previews) {
    if (node.reached.ok()) continue;
    complain(fmt::format("node {}: {}", node.name, message_of(node.reached)));
    reached = false;
  }
  if (!reached) return kUnreachable;
  const std::vector<std::string> refused = refusals(outline);
  for (const std::string& why : refused) complain(escape_controls(why));
  if (!refused.empty()) return kNo;
  if (said.out_file.empty()) return kSuccess;
  v1::ResolvedPlan resolved = chosen->resolved;
  for (v1::ResolvedPlan::Seen& seen : seen_by(previews)) *resolved.add_world() = std::move(seen);
  if (const Status written = write_resolved(said.out_file, resolved); !written.ok()) {
    complain(message_of(written));
    return kInternal;
  }
  return kSuccess;
}

}  // namespace squall::cli
