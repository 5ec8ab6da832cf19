#include "tests/support/holder.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <stdexcept>

#include "injector/hold/channel.h"
#include "injector/network/fingerprint.h"
#include "tests/support/namespace.h"

namespace squall::support {
namespace {

constexpr Duration kPatience = std::chrono::seconds(10);

v1::FromHolder expect(Holder& holder, const char* what) {
  const std::optional<v1::FromHolder> message = holder.hear(kPatience);
  if (!message)
    throw std::runtime_error(std::string("the holder does not say ") + what + ": " +
                             holder.process().err());
  if (message->has_failed()) throw std::runtime_error(message->failed().message());
  return *message;
}

}  // namespace

Holder::Holder(const Namespace& where) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    throw std::runtime_error(std::string("socketpair: ") + std::strerror(errno));
  }
  socket_ = ends[0];
  Command command;
  command.argv = {binary("squall-hold")};
  command.where = &where;
  command.descriptors = {{ends[1], 3}};
  process_.emplace(command);
  close(ends[1]);
}

Holder::~Holder() { hang_up(); }

void Holder::hang_up() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
}

void Holder::say(const v1::ToHolder& message) {
  const std::string bytes = message.SerializeAsString();
  if (send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) {
    throw std::runtime_error(std::string("cannot send to the holder: ") + std::strerror(errno));
  }
}

std::optional<v1::FromHolder> Holder::hear(Duration bound) {
  pollfd waiting{socket_, POLLIN, 0};
  if (poll(&waiting, 1, static_cast<int>(to_ms(bound))) <= 0) return std::nullopt;
  v1::FromHolder message;
  const StatusOr<hold::Received> received = hold::receive_message(socket_, message);
  if (!received.ok() || *received != hold::Received::kMessage) return std::nullopt;
  return message;
}

v1::Evidence Holder::inject(const v1::Fault& fault, Duration lease) {
  v1::ToHolder message;
  *message.mutable_start()->mutable_fault() = fault;
  message.mutable_start()->set_state_id(kStateId);
  message.mutable_start()->set_lease_end(to_ns(monotonic_now() + lease));
  say(message);
  const v1::FromHolder listed = expect(*this, "undos");
  undos_.assign(listed.undos().undos().begin(), listed.undos().undos().end());
  message.mutable_go();
  say(message);
  return expect(*this, "applied").applied().evidence();
}

std::optional<v1::Evidence> Holder::pulse(Duration lease) {
  v1::ToHolder message;
  message.mutable_pulse()->set_lease_end(to_ns(monotonic_now() + lease));
  say(message);
  const std::optional<v1::FromHolder> answer = hear(lease);
  if (!answer || !answer->has_evidence()) return std::nullopt;
  return answer->evidence();
}

std::vector<std::string> Holder::release(Duration bound) {
  v1::ToHolder message;
  message.mutable_release();
  say(message);
  const MonotonicTime deadline = monotonic_now() + bound;
  while (const std::optional<v1::FromHolder> answer = hear(deadline - monotonic_now())) {
    if (!answer->has_released()) continue;
    return {answer->released().residue().begin(), answer->released().residue().end()};
  }
  throw std::runtime_error("the holder does not say released: " + process_->err());
}

v1::Swept sweep(const Namespace& where, const std::vector<v1::Undo>& undos) {
  Holder holder(where);
  v1::ToHolder message;
  message.mutable_sweep()->mutable_undos()->Assign(undos.begin(), undos.end());
  message.mutable_sweep()->set_state_id(kStateId);
  holder.say(message);
  return expect(holder, "swept").swept();
}

std::vector<std::string> fingerprint_of(const Namespace& where) {
  StatusOr<std::vector<std::string>> lines = where.run([] { return network::fingerprint(); });
  if (!lines.ok()) throw std::runtime_error(message_of(lines.status()));
  return *std::move(lines);
}

std::string difference(const std::vector<std::string>& before,
                       const std::vector<std::string>& after) {
  std::string text;
  std::vector<std::string> only;
  std::set_difference(before.begin(), before.end(), after.begin(), after.end(),
                      std::back_inserter(only));
  for (const std::string& line : only) text += "- " + line + '\n';
  only.clear();
  std::set_difference(after.begin(), after.end(), before.begin(), before.end(),
                      std::back_inserter(only));
  for (const std::string& line : only) text += "+ " + line + '\n';
  return text;
}

v1::Engine expected_engine() {
  return std::getenv("SQUALL_LAB") != nullptr ? v1::NETEM : v1::RELAY;
}

}  // namespace squall::support
