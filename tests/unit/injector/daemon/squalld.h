/// \file
/// A squalld of its own in a folder of its own, and a controller's stream to it, for tests.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "squall/v1/node.pb.h"
#include "tests/support/process.h"

namespace squall::support {

/// Everything ends with this object: the daemon, its holders, its folder.
class Squalld {
 public:
  Squalld();
  Squalld(const Squalld&) = delete;
  Squalld& operator=(const Squalld&) = delete;
  ~Squalld();

  /// Returns when it serves; fails the test if it does not.
  void start(const std::vector<std::string>& options = {}, const Namespace* where = nullptr);

  Process& process() { return *process_; }
  const std::string& state_dir() const { return folder_; }
  std::string address() const { return "unix:" + folder_ + "/squalld.sock"; }

  /// Its holders, the spare among them.
  std::vector<pid_t> holders() const;

  v1::Description describe() const;
  StatusOr<v1::PreflightReply> preflight(const v1::PreflightRequest& request) const;
  void halt(const std::string& reason) const;

  /// As somebody who is not its run; no fault: all.
  StatusOr<v1::RevertReply> revert(const std::string& fault, const std::string& by) const;

 private:
  std::string folder_;
  std::optional<Process> process_;
};

/// One Lease stream. Renews by itself while it waits, unless told not to.
class Session {
 public:
  explicit Session(const Squalld& daemon);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  /// Sends open, and waits for opened.
  v1::Opened open(const std::string& run, std::uint64_t epoch = 1,
                  Duration lease = std::chrono::seconds(2));

  void send(const v1::LeaseRequest& request);
  void renew();
  void inject(const v1::Fault& fault);
  void revert(const std::string& fault);
  void revert_all();

  /// The next event that the predicate likes; those before it are dropped. Nothing when the stream
  /// ends first or none comes within ten seconds.
  std::optional<v1::LeaseEvent> next(const std::function<bool(const v1::LeaseEvent&)>& wanted);
  std::optional<v1::LeaseEvent> next(v1::LeaseEvent::EventCase wanted,
                                     const std::string& fault = "");

  /// From now on silence.
  void stop_renewing();

  /// As a controller's death looks: the stream is cancelled.
  void break_off();

  /// Ends our side, and waits for the node's last word.
  Status finish();

  /// Waits for the node's last word without ending our side.
  Status last_word();

 private:
  struct Wire;
  std::unique_ptr<Wire> wire_;
};

/// One Ask stream.
class Asking {
 public:
  explicit Asking(const Squalld& daemon);
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;
  ~Asking();

  /// Sends the check, or the next question of the same.
  void send(const v1::Check& check);
  void send();

  /// The next answer, or the stream's last word.
  StatusOr<v1::Sample> answer();

  StatusOr<v1::Sample> ask(const v1::Check& check) { return send(check), answer(); }
  StatusOr<v1::Sample> ask() { return send(), answer(); }

  /// As a controller's death looks.
  void break_off();

  /// Ends our side, and waits for the node's last word.
  Status finish();

 private:
  struct Wire;
  std::unique_ptr<Wire> wire_;
};

/// A fault that this machine hardly feels: 1 % of one core.
v1::Fault small_fault(Duration lasts = std::chrono::minutes(1));

}  // namespace squall::support
