/// \file
/// icmp: sends an echo request, as ping does, and waits for its reply. A ping socket needs no
/// privilege where net.ipv4.ping_group_range allows it; else a raw socket is tried. Each asking has
/// a socket of its own and words of its own in the request, so that none takes another's reply.
/// Source: icmp(7), RFC 792, RFC 4443
#include <fmt/format.h>
#include <linux/errqueue.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

#include "experiments/base/fd.h"
#include "experiments/checks/kind.h"
#include "experiments/checks/resolve.h"

namespace squall::checks {
namespace {

namespace asio = boost::asio;
using namespace asio::experimental::awaitable_operators;
using Descriptor = asio::posix::stream_descriptor;
using Byte = unsigned char;

constexpr std::size_t kHead = 8;      ///< Type, code, checksum, identifier, sequence number.
constexpr std::size_t kPayload = 56;  ///< As ping has it.
/// ICMP_FILTER of linux/icmp.h, which cannot be included beside net/if.h.
constexpr int kIcmpFilter = 1;
constexpr const char* kForbidden =
    "not allowed to ping: net.ipv4.ping_group_range leaves this user out, and CAP_NET_RAW is "
    "missing";

/// Over a message whose own checksum is zero, in the order of bytes that it is sent in.
/// Source: RFC 1071
std::uint16_t checksum(std::span<const Byte> message) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i + 1 < message.size(); i += 2) {
    sum += static_cast<std::uint32_t>(message[i]) << 8U | message[i + 1];
  }
  while (sum >> 16U != 0) sum = (sum & 0xffffU) + (sum >> 16U);
  return static_cast<std::uint16_t>(~sum);
}

/// One echo request on a socket of its own.
class Ping {
 public:
  explicit Ping(bool is_ipv6) : is_ipv6_(is_ipv6) {
    const int family = is_ipv6 ? AF_INET6 : AF_INET;
    const int protocol =
        is_ipv6 ? static_cast<int>(IPPROTO_ICMPV6) : static_cast<int>(IPPROTO_ICMP);
    constexpr int kFlags = SOCK_CLOEXEC | SOCK_NONBLOCK;
    socket_ = Fd(socket(family, SOCK_DGRAM | kFlags, protocol));
    if (!socket_.is_open() && (errno == EACCES || errno == EPERM || errno == EPROTONOSUPPORT)) {
      socket_ = Fd(socket(family, SOCK_RAW | kFlags, protocol));
      is_raw_ = true;
    }
    if (!socket_.is_open()) {
      error_ = errno == EPERM || errno == EACCES ? kForbidden : errno_words(errno);
      return;
    }
    const int on = 1;
    setsockopt(fd(), is_ipv6 ? SOL_IPV6 : SOL_IP, is_ipv6 ? IPV6_RECVERR : IP_RECVERR, &on,
               sizeof on);
    if (is_raw_) take_replies_only();
    if (getrandom(request_.data(), request_.size(), 0) != static_cast<ssize_t>(request_.size())) {
      error_ = errno_words(errno);
    }
  }

  int fd() const { return socket_.number(); }

  /// Why it could not be sent; empty: it is on its way.
  std::string send(const asio::ip::tcp::endpoint& to) {
    if (!error_.empty()) return error_;
    // Identifier, sequence number and payload stay random. A ping socket has an identifier of its
    // own, which the kernel puts there.
    request_[0] = is_ipv6_ ? ICMP6_ECHO_REQUEST : ICMP_ECHO;
    request_[1] = request_[2] = request_[3] = 0;
    if (!is_ipv6_) {  // the kernel knows that of ICMPv6, which counts addresses as well
      const std::uint16_t sum = checksum(request_);
      request_[2] = static_cast<Byte>(sum >> 8U);
      request_[3] = static_cast<Byte>(sum & 0xffU);
    }
    auto target = to;
    target.port(0);
    if (connect(fd(), target.data(), static_cast<socklen_t>(target.size())) != 0 ||
        ::send(fd(), request_.data(), request_.size(), 0) < 0) {
      return errno_words(errno);
    }
    return "";
  }

  enum class Came { kNothing, kReply, kError };

  /// Takes what has come until now; `error` is what a router or the target said instead.
  Came take(std::string& error) {
    std::array<Byte, 2048> bytes;
    // Bounded, as a flood of others' replies on a raw socket shall not hold up the loop.
    for (int reads = 0; reads < 64; ++reads) {
      const ssize_t length = recv(fd(), bytes.data(), bytes.size(), 0);
      if (length < 0 && errno == EAGAIN) break;
      if (length >= 0 && is_reply({bytes.data(), static_cast<std::size_t>(length)})) {
        return Came::kReply;
      }
    }
    return take_error(error) ? Came::kError : Came::kNothing;
  }

 private:
  void take_replies_only() {
    if (is_ipv6_) {
      icmp6_filter filter;
      ICMP6_FILTER_SETBLOCKALL(&filter);
      ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
      setsockopt(fd(), SOL_ICMPV6, ICMP6_FILTER, &filter, sizeof filter);
    } else {
      const std::uint32_t blocked = ~(1U << static_cast<unsigned>(ICMP_ECHOREPLY));
      setsockopt(fd(), SOL_RAW, kIcmpFilter, &blocked, sizeof blocked);
    }
  }

  bool is_reply(std::span<const Byte> message) const {
    if (is_raw_ && !is_ipv6_) {  // the only socket that is given the IP head as well
      if (message.empty()) return false;
      const std::size_t head = (message[0] & 0x0fU) * 4U;
      if (head > message.size()) return false;
      message = message.subspan(head);
    }
    const Byte wanted = is_ipv6_ ? ICMP6_ECHO_REPLY : ICMP_ECHOREPLY;
    return message.size() >= request_.size() && message[0] == wanted &&
           is_ours(message.first(request_.size()));
  }

  /// By sequence number and payload, and by the identifier where that was ours to choose. Of a
  /// request that comes back within an error there may be no more than the head.
  bool is_ours(std::span<const Byte> message) const {
    const std::size_t from = is_raw_ ? 4 : 6;
    return message.size() >= kHead &&
           std::equal(message.begin() + static_cast<std::ptrdiff_t>(from), message.end(),
                      request_.begin() + static_cast<std::ptrdiff_t>(from));
  }

  /// Source: ip(7), IP_RECVERR: the request that was at fault, and what is wrong with it.
  bool take_error(std::string& error) {
    std::array<Byte, kHead + kPayload> sent;
    alignas(cmsghdr) std::array<char, 512> control;
    for (int reads = 0; reads < 64; ++reads) {
      iovec part{.iov_base = sent.data(), .iov_len = sent.size()};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      const ssize_t length = recvmsg(fd(), &message, MSG_ERRQUEUE);
      if (length < 0) return false;
      if (!is_ours({sent.data(), static_cast<std::size_t>(length)})) continue;
      for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
        const bool is_error = (at->cmsg_level == SOL_IP && at->cmsg_type == IP_RECVERR) ||
                              (at->cmsg_level == SOL_IPV6 && at->cmsg_type == IPV6_RECVERR);
        if (!is_error) continue;
        sock_extended_err said{};
        std::memcpy(&said, CMSG_DATA(at), sizeof said);
        error = errno_words(static_cast<int>(said.ee_errno));
        return true;
      }
    }
    return false;
  }

  bool is_ipv6_;
  bool is_raw_ = false;
  Fd socket_;
  std::string error_;
  std::array<Byte, kHead + kPayload> request_{};
};

class Icmp final : public Check {
 public:
  explicit Icmp(const v1::Check& check)
      : timeout_(timeout_of(check)), resolver_(host_of(check.icmp().host()), "0") {}

  asio::awaitable<Sample> ask() override {
    Sample sample;
    sample.asked = monotonic_now();
    const MonotonicTime deadline = sample.asked + timeout_;
    const Resolved resolved = co_await resolver_.resolve(deadline, timeout_);
    if (!resolved.error.empty()) {
      sample.error = resolved.error;
      sample.state = monotonic_now() >= deadline ? "timeout" : "unreachable";
    }
    for (const auto& endpoint : resolved.endpoints) {
      sample.state.clear();
      co_await ping(endpoint, deadline, sample);
      if (sample.state != "unreachable") break;
    }
    sample.latency = monotonic_now() - sample.asked;
    co_return sample;
  }

 private:
  /// An IPv6 address may stand in brackets, as where a port follows it.
  static std::string host_of(const std::string& host) { return split(host + ":0").host; }

  asio::awaitable<void> ping(const asio::ip::tcp::endpoint& target, MonotonicTime deadline,
                             Sample& sample) {
    constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
    Ping ping(target.address().is_v6());
    sample.error = ping.send(target);
    if (!sample.error.empty()) {
      if (sample.error != kForbidden) sample.state = "unreachable";
      co_return;
    }
    const auto executor = co_await asio::this_coro::executor;
    asio::steady_timer late(executor, deadline);
    Descriptor ready(executor);
    ready.assign(ping.fd());
    struct Releasing {
      Descriptor& descriptor;
      ~Releasing() { descriptor.release(); }  // the socket is the ping's to close
    } const releasing{ready};
    for (;;) {
      const auto first =
          co_await (ready.async_wait(Descriptor::wait_read, kToken) || late.async_wait(kToken));
      const Ping::Came came = ping.take(sample.error);
      if (came == Ping::Came::kReply) {
        sample.state = "reply";
        co_return;
      }
      if (came == Ping::Came::kError) {
        sample.state = "unreachable";
        co_return;
      }
      if (first.index() == 1) {
        const bool cancelled = static_cast<bool>(std::get<0>(std::get<1>(first)));
        sample.error = cancelled ? kCancelled : timeout_words(timeout_);
        sample.state = "timeout";
        co_return;
      }
      if (std::get<0>(std::get<0>(first))) {
        sample.error = kCancelled;
        sample.state = "timeout";
        co_return;
      }
    }
  }

  Duration timeout_;
  Resolver resolver_;
};

}  // namespace

const CheckKind kIcmp{.which = v1::Check::kIcmp, .make = [](const v1::Check& check) {
                        return std::unique_ptr<Check>(new Icmp(check));
                      }};

}  // namespace squall::checks
