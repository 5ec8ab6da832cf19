/// \file
/// Nodes and checks that do as a test says, on the test's own loop, and a run of a plan over them.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "controller/fleet/node.h"
#include "controller/run/engine.h"
#include "experiments/checks/check.h"
#include "squall/v1/events.pb.h"
#include "squall/v1/plan.pb.h"

namespace squall::test {

/// What a node was told, and when.
struct Command {
  std::string what;  ///< inject, revert, revert_all
  std::string fault;
  MonotonicTime at;
};

/// A check of the kind http that answers as `status` says: 200 holds; 0 throws; -1 never answers.
using Answers = std::function<std::int64_t(MonotonicTime now)>;

/// Applies, holds and reverts as squalld does, but for what the test asks it to get wrong.
class FakeNode final : public fleet::Node {
 public:
  FakeNode(boost::asio::io_context& loop, std::string name) : loop_(loop), name_(std::move(name)) {}

  // What it gets wrong.
  Status unreachable;   ///< connect() returns this, if not ok.
  Status refuses_open;  ///< open() returns this, if not ok.
  std::set<std::string> kinds = {"network", "kill", "cpu"};
  v1::Looked looked;                 ///< The answer to every fault of a preflight.
  v1::PreflightRequest preflighted;  ///< What was asked last.
  std::string environment;
  bool fails_to_apply = false;
  bool shows_effect = true;
  bool settles = true;                     ///< Answers revert_all().
  bool stays_lost = false;                 ///< After lose(), connect() fails.
  std::map<std::string, Answers> answers;  ///< Of checks asked there, by name; 200 without one.
  Status refuses_to_ask;                   ///< Every check, if not ok.
  std::string version = "fake";
  std::vector<std::string> residue;
  Duration apply_takes{};
  Duration revert_takes{};

  /// Somebody stops the whole node.
  void halt(const std::string& by, const std::string& reason);

  /// Somebody ends all that it holds, and the run did not ask for it.
  void revert_by(const std::string& by);

  /// The connection breaks, as seen from the controller.
  void lose(const std::string& why);

  std::vector<Command> told;
  std::size_t opened = 0;
  std::size_t asked = 0;  ///< Questions of checks.
  bool closed = false;

  /// Faults that act now.
  std::size_t acting() const;
  /// Of those, the largest delay; 0 without any.
  std::int64_t largest_delay() const;

  const std::string& name() const override { return name_; }
  std::string address() const override { return "fake:" + name_; }
  boost::asio::awaitable<StatusOr<v1::Description>> connect() override;
  boost::asio::awaitable<StatusOr<v1::PreflightReply>> preflight(
      v1::PreflightRequest request) override;
  std::unique_ptr<fleet::RemoteCheck> check(const v1::Check& wanted) override;
  boost::asio::awaitable<StatusOr<v1::Opened>> open(v1::Open wanted,
                                                    fleet::Listener listener) override;
  void inject(const v1::Fault& fault) override;
  void revert(const std::string& fault) override;
  void revert_all() override;
  boost::asio::awaitable<void> close() override;

 private:
  struct Held {
    bool applied = false;
    bool over = false;
    std::int64_t delay = 0;
  };

  void after(Duration delay, std::function<void()> then);
  void say(v1::LeaseEvent event);
  void end(const std::string& id, v1::EndReason reason, const std::string& by = "");
  void settle_if_asked();

  boost::asio::io_context& loop_;
  std::string name_;
  fleet::Listener listener_;
  std::map<std::string, Held> held_;
  bool barrier_ = false;
  bool settled_ = false;
  bool lost_ = false;
};

/// A load that sends nothing, and answers as a test says.
struct FakeLoad {
  Status refuses;                ///< start() returns this, if not ok.
  std::function<bool()> dies;    ///< It ends by itself, as it should not, as soon as it says so.
  std::function<Duration()> is;  ///< The latency of all its answers; of 10 ms without.
  bool begun = false;
  bool ended = false;
  bool in_haste = false;
};

/// A run over fakes.
struct World {
  explicit World(std::size_t nodes);

  boost::asio::io_context loop;
  std::vector<std::unique_ptr<FakeNode>> nodes;  ///< node-1, node-2, …
  v1::Plan plan;
  std::map<std::string, Answers> answers;  ///< By the check's name; 200 where there is none.
  std::function<bool()> holds_answers;     ///< As long as it says so no check's answer is in.
  std::map<std::string, FakeLoad> loads;   ///< By their names.
  std::uint64_t seed = 1;
  std::vector<v1::Event> events;
  std::function<void(const v1::Event&)> on_event;
  std::function<boost::asio::awaitable<run::Answer>(const std::string&)> ask;
  std::unique_ptr<run::Engine> engine;

  v1::Check& add_check(const std::string& name, Duration every = std::chrono::milliseconds(5));
  /// Of the kind http, with p99 < 300ms.
  v1::Load& add_load(const std::string& name);
  v1::Step& add_fault(Duration lasts, const std::string& on = "");  ///< A delay; `on` nobody: all.
  v1::Step& add_kill(const std::string& on = "");
  v1::Step& add_wait(Duration lasts);

  /// Runs to the end; fails the test if that takes longer than 20 s.
  v1::RunEnded run();

  /// The events of one kind, in order.
  std::vector<v1::Event> of(v1::Event::EventCase kind) const;
  /// The phases walked through: preflight steady method revert recovery verdict.
  std::string phases() const;
  /// Everything all nodes were told, in the order of time.
  std::vector<Command> told() const;
};

}  // namespace squall::test
