#include "tests/support/dns.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "experiments/base/fd.h"
#include "tests/support/namespace.h"

namespace squall::support {
namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::uint16_t kPort = 53;
constexpr std::uint8_t kTypeA = 1;
constexpr std::uint8_t kTypeAaaa = 28;
constexpr std::uint8_t kTypeOpt = 41;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

sockaddr_in6 address_of(const std::string& text, bool mapped, socklen_t& size) {
  sockaddr_in6 address{};
  auto& ipv4 = reinterpret_cast<sockaddr_in&>(address);
  const std::string as_ipv6 = mapped ? "::ffff:" + text : text;
  if (inet_pton(AF_INET6, as_ipv6.c_str(), &address.sin6_addr) == 1) {
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(kPort);
    size = sizeof address;
  } else if (inet_pton(AF_INET, text.c_str(), &ipv4.sin_addr) == 1) {
    ipv4.sin_family = AF_INET;
    ipv4.sin_port = htons(kPort);
    size = sizeof ipv4;
  } else {
    throw std::runtime_error(text + " is no address");
  }
  return address;
}

/// address#port
std::string in_words(const sockaddr_in6& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const auto& ipv4 = reinterpret_cast<const sockaddr_in&>(address);
  const void* bytes = address.sin6_family == AF_INET ? static_cast<const void*>(&ipv4.sin_addr)
                                                     : static_cast<const void*>(&address.sin6_addr);
  inet_ntop(address.sin6_family, bytes, text.data(), text.size());
  return std::string(text.data()) + '#' + std::to_string(ntohs(address.sin6_port));
}

/// Behind the name that starts there; the end of the message for one that is cut off.
std::size_t behind_name(const Bytes& message, std::size_t at) {
  while (at < message.size() && message[at] != 0) {
    if (message[at] >= 0xc0) return at + 2;
    at += 1u + message[at];
  }
  return at + 1;
}

bool ends_in(const Bytes& query, const std::string& label) {
  const std::string text(query.begin(), query.end());
  return text.find(static_cast<char>(label.size()) + label + '\0') != std::string::npos;
}

/// Empty: no answer.
Bytes answer_to(const Bytes& query) {
  if (query.size() < 17 || ends_in(query, "silent")) return {};
  const std::size_t end = behind_name(query, 12) + 4;
  if (end > query.size()) return {};
  Bytes answer(query.begin(), query.begin() + static_cast<std::ptrdiff_t>(end));
  answer[2] = 0x85;  // an answer, authoritative
  answer[3] = 0x80;
  std::fill(answer.begin() + 6, answer.begin() + 12, std::uint8_t{0});
  if (ends_in(query, "nowhere")) {
    answer[3] = 0x83;
    return answer;
  }
  const std::uint8_t type = answer[end - 3];
  in6_addr address{};
  std::uint8_t size = 0;
  if (type == kTypeA) {
    inet_pton(AF_INET, NameServer::kAddress4, &address);
    size = 4;
  } else if (type == kTypeAaaa) {
    inet_pton(AF_INET6, NameServer::kAddress6, &address);
    size = 16;
  } else {
    return answer;
  }
  answer[7] = 1;
  const std::uint8_t record[] = {0xc0, 12, 0, type, 0, 1, 0, 0, 0, 60, 0, size};
  answer.insert(answer.end(), std::begin(record), std::end(record));
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(&address);
  answer.insert(answer.end(), bytes, bytes + size);
  return answer;
}

void read_records(Reply& reply) {
  const Bytes& message = reply.bytes;
  std::size_t at = behind_name(message, 12) + 4;
  const int records = message[7] + message[9] + message[11];
  for (int i = 0; i < records; ++i) {
    at = behind_name(message, at);
    if (at + 10 > message.size()) throw std::runtime_error("a record is cut off");
    const std::uint8_t type = message[at + 1];
    const std::size_t size = static_cast<std::size_t>(message[at + 8]) << 8 | message[at + 9];
    at += 10;
    if (at + size > message.size()) throw std::runtime_error("a record's value is cut off");
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (type == kTypeOpt) reply.edns = true;
    if (type == kTypeA || type == kTypeAaaa) {
      inet_ntop(type == kTypeA ? AF_INET : AF_INET6, &message[at], text.data(), text.size());
      reply.addresses.emplace_back(text.data());
    }
    at += size;
  }
  if (at != message.size()) throw std::runtime_error("bytes behind the last record");
}

bool wait_for(int fd, MonotonicTime until) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - monotonic_now());
  pollfd waiting{fd, POLLIN, 0};
  return poll(&waiting, 1, static_cast<int>(std::max<long>(left.count(), 0))) > 0;
}

/// The message behind its length; empty when the stream ends before.
Bytes read_framed(int fd, MonotonicTime until) {
  Bytes bytes;
  for (std::size_t wanted = 2; bytes.size() < wanted;) {
    std::array<std::uint8_t, 4096> part{};
    if (!wait_for(fd, until)) return {};
    const ssize_t size = recv(fd, part.data(), std::min(part.size(), wanted - bytes.size()), 0);
    if (size <= 0) return {};
    bytes.insert(bytes.end(), part.begin(), part.begin() + size);
    if (bytes.size() >= 2) wanted = 2 + (static_cast<std::size_t>(bytes[0]) << 8 | bytes[1]);
  }
  bytes.erase(bytes.begin(), bytes.begin() + 2);
  return bytes;
}

Bytes framed(const Bytes& message) {
  Bytes bytes(2 + message.size());
  bytes[0] = static_cast<std::uint8_t>(message.size() >> 8);
  bytes[1] = static_cast<std::uint8_t>(message.size() & 0xff);
  std::copy(message.begin(), message.end(), bytes.begin() + 2);
  return bytes;
}

}  // namespace

class NameServer::Server {
 public:
  explicit Server(const Namespace& where) {
    where.run([&] {
      open(SOCK_DGRAM, udp_);
      open(SOCK_STREAM, tcp_);
      if (listen(tcp_.number(), SOMAXCONN) != 0) fail("cannot listen");
    });
    stop_.reset(eventfd(0, EFD_CLOEXEC));
    thread_ = std::thread([this] { serve(); });
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() {
    eventfd_write(stop_.number(), 1);
    thread_.join();
  }

  std::uint64_t asked() const { return asked_.load(); }

 private:
  static void open(int type, Fd& socket) {
    socket.reset(::socket(AF_INET6, type | SOCK_CLOEXEC, 0));
    const int off = 0;
    const int on = 1;
    setsockopt(socket.number(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    setsockopt(socket.number(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    any.sin6_port = htons(kPort);
    if (bind(socket.number(), reinterpret_cast<sockaddr*>(&any), sizeof any) != 0) {
      fail("cannot bind port 53");
    }
  }

  void serve() {
    for (;;) {
      std::vector<pollfd> waiting = {
          {stop_.number(), POLLIN, 0}, {udp_.number(), POLLIN, 0}, {tcp_.number(), POLLIN, 0}};
      for (const Fd& client : clients_) waiting.push_back({client.number(), POLLIN, 0});
      if (poll(waiting.data(), waiting.size(), -1) < 0) continue;
      if (waiting[0].revents != 0) return;
      if (waiting[1].revents != 0) answer_datagram();
      std::vector<Fd> staying;
      for (std::size_t i = 0; i < clients_.size(); ++i) {
        if (waiting[i + 3].revents == 0 || answer_stream(clients_[i].number())) {
          staying.push_back(std::move(clients_[i]));
        }
      }
      clients_ = std::move(staying);
      if (waiting[2].revents != 0) clients_.emplace_back(accept(tcp_.number(), nullptr, nullptr));
    }
  }

  void answer_datagram() {
    Bytes query(65535);
    sockaddr_in6 client{};
    socklen_t size = sizeof client;
    const ssize_t length = recvfrom(udp_.number(), query.data(), query.size(), MSG_DONTWAIT,
                                    reinterpret_cast<sockaddr*>(&client), &size);
    if (length < 0) return;
    ++asked_;
    query.resize(static_cast<std::size_t>(length));
    const Bytes answer = answer_to(query);
    if (answer.empty()) return;
    sendto(udp_.number(), answer.data(), answer.size(), 0, reinterpret_cast<sockaddr*>(&client),
           size);
  }

  bool answer_stream(int client) {
    const Bytes query = read_framed(client, monotonic_now() + std::chrono::seconds(1));
    if (query.empty()) return false;
    ++asked_;
    const Bytes answer = framed(answer_to(query));
    return answer.size() == 2 || send(client, answer.data(), answer.size(), MSG_NOSIGNAL) ==
                                     static_cast<ssize_t>(answer.size());
  }

  Fd udp_;
  Fd tcp_;
  Fd stop_;
  std::vector<Fd> clients_;
  std::atomic<std::uint64_t> asked_ = 0;
  std::thread thread_;
};

NameServer::NameServer(const Namespace& where) : server_(std::make_unique<Server>(where)) {}
NameServer::~NameServer() = default;
std::uint64_t NameServer::asked() const { return server_->asked(); }

Bytes make_query(const Question& question, std::uint16_t id) {
  Bytes query = {static_cast<std::uint8_t>(id >> 8), static_cast<std::uint8_t>(id & 0xff), 1, 0};
  const std::uint8_t counts[] = {0, 1, 0, 0, 0, 0, 0, static_cast<std::uint8_t>(question.edns)};
  query.insert(query.end(), std::begin(counts), std::end(counts));
  std::size_t begin = 0;
  while (begin < question.name.size()) {
    const std::size_t dot = std::min(question.name.find('.', begin), question.name.size());
    query.push_back(static_cast<std::uint8_t>(dot - begin));
    query.insert(query.end(), question.name.begin() + static_cast<std::ptrdiff_t>(begin),
                 question.name.begin() + static_cast<std::ptrdiff_t>(dot));
    begin = dot + 1;
  }
  const std::uint8_t rest[] = {0, 0, question.ipv6 ? kTypeAaaa : kTypeA, 0, 1};
  query.insert(query.end(), std::begin(rest), std::end(rest));
  const std::uint8_t opt[] = {0, 0, kTypeOpt, 4, 208, 0, 0, 0x80, 0, 0, 0};
  if (question.edns) query.insert(query.end(), std::begin(opt), std::end(opt));
  return query;
}

std::optional<Reply> ask(const Namespace& where, const std::string& server, Transport transport,
                         const Question& question, Duration bound) {
  const bool is_tcp = transport == Transport::kTcp || transport == Transport::kTcpByBytes;
  const Bytes query = make_query(question);
  socklen_t size = 0;
  const sockaddr_in6 to = address_of(server, transport == Transport::kMapped, size);
  const auto* target = reinterpret_cast<const sockaddr*>(&to);
  const MonotonicTime begun = monotonic_now();
  const MonotonicTime until = begun + bound;
  const Fd socket(where.run([&] {
    return ::socket(to.sin6_family, (is_tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);
  }));
  if (!question.device.empty() &&
      setsockopt(socket.number(), SOL_SOCKET, SO_BINDTODEVICE, question.device.c_str(),
                 static_cast<socklen_t>(question.device.size())) != 0) {
    fail("cannot tie a socket to " + question.device);
  }
  Reply reply;
  sockaddr_in6 from{};
  socklen_t from_size = sizeof from;
  if (is_tcp) {
    if (connect(socket.number(), target, size) != 0) return std::nullopt;
    const Bytes bytes = framed(query);
    const std::size_t step = transport == Transport::kTcpByBytes ? 1 : bytes.size();
    for (std::size_t at = 0; at < bytes.size(); at += step) {
      if (send(socket.number(), &bytes[at], step, MSG_NOSIGNAL) < 0) return std::nullopt;
    }
    getpeername(socket.number(), reinterpret_cast<sockaddr*>(&from), &from_size);
    reply.bytes = read_framed(socket.number(), until);
  } else {
    const bool unconnected = transport == Transport::kUnconnected;
    if (!unconnected && connect(socket.number(), target, size) != 0) return std::nullopt;
    if (sendto(socket.number(), query.data(), query.size(), 0, unconnected ? target : nullptr,
               unconnected ? size : 0) < 0) {
      return std::nullopt;
    }
    if (!wait_for(socket.number(), until)) return std::nullopt;
    reply.bytes.resize(65535);
    const ssize_t length = recvfrom(socket.number(), reply.bytes.data(), reply.bytes.size(), 0,
                                    reinterpret_cast<sockaddr*>(&from), &from_size);
    reply.bytes.resize(static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
  }
  reply.took = monotonic_now() - begun;
  if (reply.bytes.size() < 12) return std::nullopt;
  if (!std::equal(query.begin(), query.begin() + 2, reply.bytes.begin())) {
    throw std::runtime_error("an answer to another query");
  }
  reply.from = in_words(from);
  reply.code = reply.bytes[3] & 15;
  read_records(reply);
  return reply;
}

}  // namespace squall::support
