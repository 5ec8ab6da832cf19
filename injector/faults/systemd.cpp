#include "injector/faults/systemd.h"

#include <dbus/dbus.h>
#include <time.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "experiments/base/diagnostic.h"

/// Named by the half of libdbus.a that listens, which comes along and is never called: squall-hold
/// is static, and there is no static libsystemd.
extern "C" int sd_listen_fds(int) { return 0; }
extern "C" int sd_is_socket(int, int, int, int) { return 0; }

namespace squall::hold {
namespace {

constexpr const char* kAddress = "unix:path=/run/systemd/private";
constexpr const char* kName = "org.freedesktop.systemd1";
constexpr const char* kManagerPath = "/org/freedesktop/systemd1";
constexpr const char* kManager = "org.freedesktop.systemd1.Manager";
constexpr const char* kUnit = "org.freedesktop.systemd1.Unit";
constexpr int kPatienceMs = 5000;
constexpr int kPingPatienceMs = 50;

/// libdbus's error, freed.
class Problem {
 public:
  Problem() { ::dbus_error_init(&error_); }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;
  ~Problem() { ::dbus_error_free(&error_); }

  DBusError* operator&() { return &error_; }

  Status status() const {
    const std::string name = error_.name == nullptr ? "" : error_.name;
    const std::string message = error_.message == nullptr ? name : error_.message;
    const auto is = [&](const char* suffix) { return name.ends_with(suffix); };
    const StatusCode code =
        is(".NoSuchUnit") || is(".NoUnitForPID") || is(".UnknownObject") || is(".UnknownProperty")
            ? StatusCode::kNotFound
        : is(".AccessDenied")              ? StatusCode::kPermissionDenied
        : is(".NoReply") || is(".Timeout") ? StatusCode::kDeadlineExceeded
                                           : StatusCode::kFailedPrecondition;
    return error(code, "systemd: " + escape_controls(message));
  }

 private:
  DBusError error_;
};

Status not_understood() {
  return error(StatusCode::kInternal, "systemd answered what was not asked for");
}

}  // namespace

void Systemd::Close::operator()(DBusConnection* connection) const {
  ::dbus_connection_close(connection);
  ::dbus_connection_unref(connection);
}

void Systemd::Unref::operator()(DBusMessage* message) const { ::dbus_message_unref(message); }

StatusOr<Systemd> Systemd::connect() {
  Problem problem;
  Systemd systemd;
  systemd.connection_.reset(::dbus_connection_open_private(kAddress, &problem));
  // systemd reads what comes right behind the greeting together with it, and may then wait for more
  // before it looks at it (measured, version 252): the first answer may need a second question.
  for (int waited = 0; systemd.connection_ && waited < kPatienceMs; waited += kPingPatienceMs) {
    Message ping(::dbus_message_new_method_call(kName, kManagerPath, DBUS_INTERFACE_PEER, "Ping"));
    const StatusOr<Message> pong = systemd.call(std::move(ping), kPingPatienceMs);
    if (pong.status().code() != StatusCode::kDeadlineExceeded) return systemd;
  }
  return error(StatusCode::kFailedPrecondition,
               "systemd does not run here, or cannot be asked: " + message_of(problem.status()));
}

StatusOr<Systemd::Message> Systemd::call(Message message, int patience_ms) {
  if (!message) return error(StatusCode::kResourceExhausted, "no memory for a message");
  Problem problem;
  Message reply(::dbus_connection_send_with_reply_and_block(connection_.get(), message.get(),
                                                            patience_ms, &problem));
  if (!reply) return problem.status();
  return reply;
}

StatusOr<std::string> Systemd::find(const std::string& unit) {
  Message message(::dbus_message_new_method_call(kName, kManagerPath, kManager, "LoadUnit"));
  const char* name = unit.c_str();
  ::dbus_message_append_args(message.get(), DBUS_TYPE_STRING, &name, DBUS_TYPE_INVALID);
  const StatusOr<Message> reply = call(std::move(message), kPatienceMs);
  if (!reply.ok()) return reply.status();
  const char* path = nullptr;
  if (!::dbus_message_get_args(reply->get(), nullptr, DBUS_TYPE_OBJECT_PATH, &path,
                               DBUS_TYPE_INVALID)) {
    return not_understood();
  }
  const std::string found = path;
  const StatusOr<std::string> loaded = text(found, "LoadState");
  if (!loaded.ok()) return loaded.status();
  if (*loaded == "not-found") {
    return error(StatusCode::kNotFound, "this node has no unit " + escape_controls(unit));
  }
  return found;
}

StatusOr<std::string> Systemd::unit_of(std::uint32_t pid) {
  Message message(::dbus_message_new_method_call(kName, kManagerPath, kManager, "GetUnitByPID"));
  ::dbus_message_append_args(message.get(), DBUS_TYPE_UINT32, &pid, DBUS_TYPE_INVALID);
  const StatusOr<Message> reply = call(std::move(message), kPatienceMs);
  if (!reply.ok()) return reply.status();
  const char* path = nullptr;
  if (!::dbus_message_get_args(reply->get(), nullptr, DBUS_TYPE_OBJECT_PATH, &path,
                               DBUS_TYPE_INVALID)) {
    return not_understood();
  }
  return std::string(path);
}

StatusOr<Systemd::Message> Systemd::property(const std::string& path, const char* interface,
                                             const char* name) {
  Message message(
      ::dbus_message_new_method_call(kName, path.c_str(), DBUS_INTERFACE_PROPERTIES, "Get"));
  if (message) {
    ::dbus_message_append_args(message.get(), DBUS_TYPE_STRING, &interface, DBUS_TYPE_STRING, &name,
                               DBUS_TYPE_INVALID);
  }
  return call(std::move(message), kPatienceMs);
}

StatusOr<std::string> Systemd::text(const std::string& unit_path, const char* name) {
  const StatusOr<Message> reply = property(unit_path, kUnit, name);
  if (!reply.ok()) return reply.status();
  DBusMessageIter outer, inner;
  if (!::dbus_message_iter_init(reply->get(), &outer)) return not_understood();
  ::dbus_message_iter_recurse(&outer, &inner);
  if (::dbus_message_iter_get_arg_type(&inner) != DBUS_TYPE_STRING) return not_understood();
  const char* value = nullptr;
  ::dbus_message_iter_get_basic(&inner, &value);
  return std::string(value);
}

StatusOr<bool> Systemd::flag(const std::string& unit_path, const char* name) {
  const StatusOr<Message> reply = property(unit_path, kUnit, name);
  if (!reply.ok()) return reply.status();
  DBusMessageIter outer, inner;
  if (!::dbus_message_iter_init(reply->get(), &outer)) return not_understood();
  ::dbus_message_iter_recurse(&outer, &inner);
  if (::dbus_message_iter_get_arg_type(&inner) != DBUS_TYPE_BOOLEAN) return not_understood();
  dbus_bool_t value = FALSE;
  ::dbus_message_iter_get_basic(&inner, &value);
  return value != FALSE;
}

StatusOr<std::vector<std::string>> Systemd::list(const std::string& unit_path, const char* name) {
  const StatusOr<Message> reply = property(unit_path, kUnit, name);
  if (!reply.ok()) return reply.status();
  DBusMessageIter outer, inner, element;
  if (!::dbus_message_iter_init(reply->get(), &outer)) return not_understood();
  ::dbus_message_iter_recurse(&outer, &inner);
  if (::dbus_message_iter_get_arg_type(&inner) != DBUS_TYPE_ARRAY) return not_understood();
  std::vector<std::string> values;
  ::dbus_message_iter_recurse(&inner, &element);
  while (::dbus_message_iter_get_arg_type(&element) == DBUS_TYPE_STRING) {
    const char* value = nullptr;
    ::dbus_message_iter_get_basic(&element, &value);
    values.emplace_back(value);
    ::dbus_message_iter_next(&element);
  }
  return values;
}

Status Systemd::run(const std::string& unit, Job job, MonotonicTime deadline) {
  const char* method = job == Job::kStop    ? "StopUnit"
                       : job == Job::kStart ? "StartUnit"
                                            : "RestartUnit";
  Message message(::dbus_message_new_method_call(kName, kManagerPath, kManager, method));
  const char* name = unit.c_str();
  const char* mode = "replace";
  ::dbus_message_append_args(message.get(), DBUS_TYPE_STRING, &name, DBUS_TYPE_STRING, &mode,
                             DBUS_TYPE_INVALID);
  const StatusOr<Message> reply = call(std::move(message), kPatienceMs);
  if (!reply.ok()) return reply.status();
  const char* path = nullptr;
  if (!::dbus_message_get_args(reply->get(), nullptr, DBUS_TYPE_OBJECT_PATH, &path,
                               DBUS_TYPE_INVALID)) {
    return not_understood();
  }
  // A job's object is gone when the job is done.
  for (;;) {
    const StatusOr<Message> state = property(path, "org.freedesktop.systemd1.Job", "State");
    if (state.status().code() == StatusCode::kNotFound) return ok();
    if (!state.ok()) return state.status();
    if (monotonic_now() >= deadline) {
      return error(StatusCode::kDeadlineExceeded,
                   escape_controls(unit) + " takes too long: systemd still works on it");
    }
    const timespec pause{.tv_sec = 0, .tv_nsec = 5'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

}  // namespace squall::hold
