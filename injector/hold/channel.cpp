#include "injector/hold/channel.h"

#include <fcntl.h>
#include <google/protobuf/message_lite.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <string>

namespace squall::hold {

StatusOr<Pair> make_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return from_errno("socketpair", errno);
  }
  Pair pair{Fd(ends[0]), Fd(ends[1])};
  if (::fcntl(pair.daemon.number(), F_SETFL, O_NONBLOCK) != 0) return from_errno("fcntl", errno);
  return pair;
}

Status send_message(int socket, const google::protobuf::MessageLite& message, Duration patience) {
  const std::string bytes = message.SerializeAsString();
  if (bytes.empty() || bytes.size() > kMaxMessage) {
    return error(StatusCode::kResourceExhausted,
                 "a message of " + std::to_string(bytes.size()) + " bytes does not fit");
  }
  const auto until = monotonic_now() + patience;
  for (;;) {
    if (::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return ok();
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) {
      return error(StatusCode::kUnavailable, "the other end is gone");
    }
    if (errno != EAGAIN && errno != EWOULDBLOCK) return from_errno("send", errno);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - monotonic_now());
    if (left.count() <= 0)
      return error(StatusCode::kResourceExhausted, "the other end does not read");
    pollfd room{.fd = socket, .events = POLLOUT, .revents = 0};
    ::poll(&room, 1, static_cast<int>(left.count()));
  }
}

StatusOr<Received> receive_message(int socket, google::protobuf::MessageLite& message) {
  // Left as it is: to clear it, or to get it from the heap, takes longer than all the rest.
  std::array<char, kMaxMessage> bytes;
  ssize_t size = 0;
  do {
    size = ::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_TRUNC);
    // An end that closes with messages unread resets the connection, and recv() says so, once,
    // before it hands out what that end had sent itself: its last words.
  } while (size < 0 && (errno == EINTR || errno == ECONNRESET));
  if (size == 0) return Received::kEnd;
  if (size < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return Received::kNothing;
    return from_errno("recv", errno);
  }
  if (static_cast<std::size_t>(size) > bytes.size() ||
      !message.ParseFromArray(bytes.data(), static_cast<int>(size))) {
    return error(StatusCode::kDataLoss, "bytes that are no message");
  }
  return Received::kMessage;
}

}  // namespace squall::hold
