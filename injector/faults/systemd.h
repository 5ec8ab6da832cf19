/// \file
/// What a fault may ask of the node's systemd, over its private socket: no message bus is needed.
/// The one door to libdbus.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"

struct DBusConnection;
struct DBusMessage;

namespace squall::hold {

/// One connection. Calls block, for no longer than 5 s each unless told otherwise.
class Systemd {
 public:
  /// Errors: kFailedPrecondition where systemd does not run.
  static StatusOr<Systemd> connect();

  /// A unit, as systemd names its object. Loads it if it is not. Errors: kNotFound.
  StatusOr<std::string> find(const std::string& unit);

  /// The unit that a process belongs to. Errors: kNotFound.
  StatusOr<std::string> unit_of(std::uint32_t pid);

  /// Properties of org.freedesktop.systemd1.Unit. Errors: kNotFound for one that this version
  /// lacks.
  StatusOr<std::string> text(const std::string& unit_path, const char* property);
  StatusOr<bool> flag(const std::string& unit_path, const char* property);
  StatusOr<std::vector<std::string>> list(const std::string& unit_path, const char* property);

  enum class Job { kStop, kStart, kRestart };

  /// Asks for a job and waits until it is done, whatever came of it. Errors: kDeadlineExceeded;
  /// kPermissionDenied; systemd's own words.
  Status run(const std::string& unit, Job job, MonotonicTime deadline);

 private:
  struct Close {
    void operator()(DBusConnection* connection) const;
  };
  struct Unref {
    void operator()(DBusMessage* message) const;
  };
  using Message = std::unique_ptr<DBusMessage, Unref>;

  StatusOr<Message> call(Message message, int patience_ms);
  StatusOr<Message> property(const std::string& path, const char* interface, const char* name);

  std::unique_ptr<DBusConnection, Close> connection_;
};

}  // namespace squall::hold
