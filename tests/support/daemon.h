/// \file
/// squalld under test, and a controller of its own that can be made to fall silent, or to come back
/// too late.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "squall/v1/node.pb.h"
#include "tests/support/folder.h"
#include "tests/support/process.h"

namespace squall::support {

class Namespace;

/// A squalld in a namespace, listening on a unix socket in its state directory.
class Daemon {
 public:
  /// Returns when it answers. Throws std::runtime_error with what it said when it does not within
  /// 20 s.
  /// `environment`: beside the caller's.
  Daemon(const Namespace& where, const std::filesystem::path& state_dir,
         const std::vector<std::pair<std::string, std::string>>& environment = {});

  Process& process() { return process_; }

  /// unix:/path
  const std::string& address() const { return address_; }

  StatusOr<v1::Description> describe(Duration bound) const;

  /// Its holders, the spare one included.
  std::vector<Stranger> holders() const;

 private:
  std::string address_;
  Process process_;
};

/// One lease of one run on one node.
class Controller {
 public:
  /// Opens the lease and renews it every third of it, until told to fall silent. Throws
  /// std::runtime_error when refused.
  Controller(const std::string& address, const std::string& run, std::uint64_t epoch,
             Duration lease);
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  /// Breaks the stream.
  ~Controller();

  /// Asks and waits until it is applied. Throws std::runtime_error with the reason when it is not.
  v1::FaultApplied inject(const v1::Fault& fault);

  void send_inject(const v1::Fault& fault);
  void revert(const std::string& fault);
  void revert_all();

  /// Renews no more, but leaves the stream open: a frozen controller.
  void fall_silent();

  /// One renewal now.
  void renew();

  /// Breaks the stream without a word: a killed controller.
  void vanish();

  /// The first event, from the beginning of the stream, that fits; nothing if none comes within the
  /// bound.
  std::optional<v1::LeaseEvent> wait_for(const std::function<bool(const v1::LeaseEvent&)>& fits,
                                         Duration bound) const;

  /// All events so far.
  std::vector<v1::LeaseEvent> events() const;

  /// How the stream ended, once it has.
  std::optional<Status> ended(Duration bound) const;

 private:
  class Stream;
  std::unique_ptr<Stream> stream_;
};

}  // namespace squall::support
