/// \file
/// Holder processes as the loop sees them: messages in and out, and one end. One spare is kept
/// started ahead, so that a fault does not wait for a process to start.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "injector/daemon/loop.h"
#include "injector/daemon/spawn.h"
#include "squall/v1/hold.pb.h"

namespace squall::daemon {

/// One holder. All on the loop.
class HolderProcess {
 public:
  HolderProcess(Loop& loop, Spawned spawned);
  HolderProcess(const HolderProcess&) = delete;
  HolderProcess& operator=(const HolderProcess&) = delete;
  ~HolderProcess();  ///< Closes the socket; a holder that still lives then ends its fault and goes.

  /// Neither may destroy this object; retire it instead.
  std::function<void(const v1::FromHolder&)> on_message;
  std::function<void(const std::string& how)>
      on_gone;  ///< Once, after its last message: "killed by signal 9".

  /// Errors: kUnavailable when it is gone; kResourceExhausted when it does not read.
  Status send(const v1::ToHolder& message);

  /// Nothing more is said or heard; a holder that waits goes.
  void hang_up();

  void kill();
  pid_t pid() const { return pid_; }
  std::uint64_t start_time() const { return start_time_; }
  /// Whether its end has been told.
  bool is_gone() const { return gone_; }
  /// Whether it has ended, told or not.
  bool has_ended() const;

 private:
  void read_all();
  void ended();

  pid_t pid_;
  std::uint64_t start_time_;
  bool silent_ = false;  // its end of the socket is closed
  bool gone_ = false;
  std::unique_ptr<Watch> socket_;
  std::unique_ptr<Watch> pidfd_;
};

/// How long a holder may take to carry out these undos: what is queued in the devices leaves first.
Duration patience_for(const google::protobuf::RepeatedPtrField<v1::Undo>& undos);

/// Starts holders and keeps the spare. All on the loop, but for the starting itself.
class Holders {
 public:
  Holders(Loop& loop, std::string program);
  Holders(const Holders&) = delete;
  Holders& operator=(const Holders&) = delete;
  ~Holders();

  using Taken = std::function<void(StatusOr<std::unique_ptr<HolderProcess>>)>;
  /// Hands over the spare, at once, or a new holder as soon as it runs. The next spare is started
  /// in the next lull.
  void take(Taken taken);

  /// Starts a spare, if there is none, in the next lull.
  void keep_spare();

  using Answered = std::function<void(StatusOr<v1::FromHolder>)>;
  /// One request to a new holder and its answer, which leaves the spare for a fault; a
  /// fingerprint's parts are joined. `failed` comes as an error. Errors: those of take();
  /// kDeadlineExceeded; kInternal if it died.
  void ask(const v1::ToHolder& request, Duration patience, Answered answered);

  /// Keeps a holder that has nothing more to tell until it is gone; kills it if it is not in a
  /// second.
  void retire(std::unique_ptr<HolderProcess> holder);

 private:
  struct Question;
  struct Retired;
  void spawn(bool spare, Taken taken);
  void start_spare();

  Loop& loop_;
  std::string program_;
  std::unique_ptr<Worker> spawner_;
  std::unique_ptr<HolderProcess> spare_;
  bool spawning_spare_ = false;
  Timer lull_;
  std::list<Retired> retired_;
  std::list<std::shared_ptr<Question>> questions_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace squall::daemon
