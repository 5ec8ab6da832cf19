#include "tests/unit/injector/network/ping.h"

#include <arpa/inet.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <stdexcept>

namespace squall::support {
namespace {

constexpr std::uint8_t kIpv4Header = 20;

std::uint16_t checksum(const std::array<std::uint8_t, 16>& bytes) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 2) sum += bytes[i] + (bytes[i + 1] << 8);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

}  // namespace

std::optional<Duration> ping(const Namespace& from, const std::string& address, Duration bound) {
  const bool ipv4 = address.find(':') == std::string::npos;
  const int fd = from.run([&] {
    return socket(ipv4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC,
                  ipv4 ? int{IPPROTO_ICMP} : int{IPPROTO_ICMPV6});
  });
  if (fd < 0) throw std::runtime_error("cannot open a raw socket");
  sockaddr_in to4{};
  to4.sin_family = AF_INET;
  inet_pton(AF_INET, address.c_str(), &to4.sin_addr);
  sockaddr_in6 to6{};
  to6.sin6_family = AF_INET6;
  inet_pton(AF_INET6, address.c_str(), &to6.sin6_addr);

  std::array<std::uint8_t, 16> echo{};
  echo[0] = ipv4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST;
  const std::uint16_t id = static_cast<std::uint16_t>(getpid());
  std::memcpy(&echo[4], &id, sizeof(id));
  if (ipv4) {
    const std::uint16_t sum = checksum(echo);
    std::memcpy(&echo[2], &sum, sizeof(sum));
  }
  const MonotonicTime start = monotonic_now();
  sendto(fd, echo.data(), echo.size(), 0,
         ipv4 ? reinterpret_cast<const sockaddr*>(&to4) : reinterpret_cast<const sockaddr*>(&to6),
         ipv4 ? sizeof(to4) : sizeof(to6));
  std::optional<Duration> round_trip;
  while (!round_trip && monotonic_now() - start < bound) {
    pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, 10) <= 0) continue;
    std::array<std::uint8_t, 256> answer{};
    const ssize_t length = recv(fd, answer.data(), answer.size(), MSG_DONTWAIT);
    const std::size_t skip = ipv4 ? kIpv4Header : 0;
    if (length < static_cast<ssize_t>(skip + 8)) continue;
    const std::uint8_t wanted = ipv4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY;
    if (answer[skip] == wanted && std::memcmp(&answer[skip + 4], &id, sizeof(id)) == 0) {
      round_trip = monotonic_now() - start;
    }
  }
  close(fd);
  return round_trip;
}

}  // namespace squall::support
