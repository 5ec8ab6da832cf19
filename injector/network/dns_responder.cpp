#include "injector/network/dns_responder.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <exception>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "experiments/base/fd.h"
#include "injector/network/dns_message.h"

namespace squall::network {
namespace {

// All bounded, below the 1024 descriptors that a process may have by default.
constexpr std::size_t kMostForwards = 512;
constexpr std::size_t kMostConnections = 128;
constexpr std::size_t kMostHeld = 8192;                   // answers, of UDP
constexpr std::size_t kMostBytes = 256 * 1024;            // queued on one connection, either way
constexpr std::size_t kLargestMessage = 65535;            // what two bytes of length can say
constexpr Duration kPatience = std::chrono::seconds(10);  // with a server; clients' own is 5 s
constexpr Duration kIdle = std::chrono::seconds(30);      // a connection without a word
/// How long a client is given to read an answer: while the redirect stands, it bears the address
/// that was asked.
constexpr Duration kReadWithin = std::chrono::milliseconds(250);
constexpr Duration kEndWithin = std::chrono::seconds(1);  // never needed by a thread that may run
constexpr int kBindAttempts = 20;
constexpr int kBatch = 64;
/// So seldom is it asked for again that a change of fault does not find it in a cache.
constexpr std::uint32_t kTtl = 5;

struct Address {
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_storage);

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Address loopback(bool ipv6, std::uint16_t port) {
  Address address;
  if (ipv6) {
    auto& to = reinterpret_cast<sockaddr_in6&>(address.storage);
    to.sin6_family = AF_INET6;
    to.sin6_addr = IN6ADDR_LOOPBACK_INIT;
    to.sin6_port = htons(port);
    address.size = sizeof to;
  } else {
    auto& to = reinterpret_cast<sockaddr_in&>(address.storage);
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(port);
    address.size = sizeof to;
  }
  return address;
}

Fd open_socket(int family, int type) {
  return Fd(::socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

/// Whether a connected socket's other end is on this node.
bool leads_home(int socket) {
  Address own;
  Address other;
  if (::getsockname(socket, own.get(), &own.size) != 0 ||
      ::getpeername(socket, other.get(), &other.size) != 0) {
    return false;
  }
  if (other.storage.ss_family == AF_INET6) {
    return IN6_ARE_ADDR_EQUAL(&reinterpret_cast<const sockaddr_in6&>(own.storage).sin6_addr,
                              &reinterpret_cast<const sockaddr_in6&>(other.storage).sin6_addr);
  }
  const in_addr_t to = reinterpret_cast<const sockaddr_in&>(other.storage).sin_addr.s_addr;
  return to == reinterpret_cast<const sockaddr_in&>(own.storage).sin_addr.s_addr ||
         (ntohl(to) >> IN_CLASSA_NSHIFT) == IN_LOOPBACKNET;
}

/// What becomes of a query.
struct Verdict {
  bool matched = false;
  DnsQuestion question;
  std::optional<DnsMessage> answer;  ///< Nothing: the server's, or none.
  bool silent = false;
};

/// The fault's words, ready to be applied to messages.
class Effect {
 public:
  explicit Effect(const v1::Dns& wanted) : wanted_(wanted) {
    for (const std::string& address : wanted_.addresses()) {
      addresses_.push_back(parse_address(address));
    }
  }

  bool matches(const DnsQuestion& question) const {
    return std::any_of(
        wanted_.names().begin(), wanted_.names().end(),
        [&](const std::string& pattern) { return matches_pattern(question.name, pattern); });
  }

  Verdict judge(DnsBytes query) const {
    Verdict verdict;
    if (is_answer(query)) return verdict;
    const std::optional<DnsQuestion> question = read_question(query);
    if (!question || !matches(*question)) return verdict;
    verdict.matched = true;
    verdict.question = *question;
    switch (wanted_.answer()) {
      case v1::NXDOMAIN:
        verdict.answer = make_answer(query, *question, DnsCode::kNxdomain);
        break;
      case v1::SERVFAIL:
        verdict.answer = make_answer(query, *question, DnsCode::kServfail);
        break;
      case v1::TIMEOUT:
        verdict.silent = true;
        break;
      default:
        if (!addresses_.empty() && is_about_addresses(question->type)) {
          verdict.answer = make_answer(query, *question, addresses_, kTtl);
        }
        break;
    }
    return verdict;
  }

  /// Whether this answer of a server is to one of our names.
  bool concerns(DnsBytes answer) const {
    const std::optional<DnsQuestion> question = read_question(answer);
    return question && matches(*question);
  }

 private:
  /// SVCB and HTTPS records carry addresses too: of them there are then none.
  static bool is_about_addresses(std::uint16_t type) {
    return type == kDnsA || type == kDnsAaaa || type == kDnsAny || type == kDnsSvcb ||
           type == kDnsHttps;
  }

  v1::Dns wanted_;
  std::vector<DnsMessage> addresses_;
};

/// One direction of a byte stream, cut into messages behind two bytes of length. Source: RFC 1035,
/// 4.2.2.
class Inbox {
 public:
  enum class Read { kSome, kNothing, kEnd };

  Read read(int socket) {
    std::array<std::uint8_t, 16384> part;
    const ssize_t size = ::recv(socket, part.data(), part.size(), 0);
    if (size < 0) return errno == EAGAIN || errno == EINTR ? Read::kNothing : Read::kEnd;
    if (size == 0) return Read::kEnd;
    bytes_.insert(bytes_.end(), part.begin(), part.begin() + size);
    return Read::kSome;
  }

  /// The next whole message, without its length.
  std::optional<DnsMessage> next() {
    if (bytes_.size() < 2) return std::nullopt;
    const std::size_t length = static_cast<std::size_t>(bytes_[0]) << 8 | bytes_[1];
    if (bytes_.size() < 2 + length) return std::nullopt;
    const auto begin = bytes_.begin() + 2;
    const auto end = begin + static_cast<std::ptrdiff_t>(length);
    DnsMessage message(begin, end);
    bytes_.erase(bytes_.begin(), end);
    return message;
  }

 private:
  std::vector<std::uint8_t> bytes_;
};

class Outbox {
 public:
  void add(DnsBytes message) {
    bytes_.push_back(static_cast<std::uint8_t>(message.size() >> 8));
    bytes_.push_back(static_cast<std::uint8_t>(message.size() & 0xff));
    bytes_.insert(bytes_.end(), message.begin(), message.end());
  }

  bool empty() const { return bytes_.empty(); }
  std::size_t size() const { return bytes_.size(); }

  /// Writes what there is room for. Returns whether the other end still takes anything.
  bool write(int socket) {
    while (!bytes_.empty()) {
      const ssize_t size = ::send(socket, bytes_.data(), bytes_.size(), MSG_NOSIGNAL);
      if (size < 0) return errno == EAGAIN || errno == EINTR || errno == ENOTCONN;
      bytes_.erase(bytes_.begin(), bytes_.begin() + size);
    }
    return true;
  }

 private:
  std::vector<std::uint8_t> bytes_;
};

/// An answer that waits for its time.
struct Late {
  MonotonicTime due;
  DnsMessage message;
};

/// A client's connection, and ours to its server once something is passed on.
struct Connection {
  std::size_t place = 0;
  Fd client;
  Fd server;
  Inbox from_client;
  Inbox from_server;
  Outbox to_client;
  Outbox to_server;
  std::deque<Late> late;
  std::size_t late_bytes = 0;
  std::size_t asked = 0;  // of the server, and not answered yet
  bool client_ended = false;
  bool server_told = false;  // that nothing more comes
  bool server_ended = false;
  MonotonicTime last_word{};
  std::uint32_t client_events = 0;
  std::uint32_t server_events = 0;
};

/// A query of UDP that waits for its server.
struct Forward {
  std::size_t place = 0;
  Address client;
  Fd server;
  DnsMessage query;
  bool matched = false;
  DnsQuestion question;       // of a matched one
  bool to_this_node = false;  // to a resolver that may ask another server in its turn
  MonotonicTime until{};
};

struct LateDatagram {
  std::size_t place = 0;
  Address client;
  DnsMessage message;
};

/// What an event is about: kept in its upper byte, the number of the object below.
enum class Source : std::uint64_t { kWake, kUdp, kTcp, kForward, kClient, kServer };

constexpr unsigned kSourceShift = 56;

std::uint64_t token_of(Source source, std::uint64_t number) {
  return static_cast<std::uint64_t>(source) << kSourceShift | number;
}

}  // namespace

class DnsResponder::Loop {
 public:
  explicit Loop(const v1::Dns& wanted) : effect_(wanted), delay_ns_(wanted.delay()) {}

  Status open();
  DnsPorts ports() const { return ports_; }
  void begin(const DnsRedirect& redirect) { redirect_ = &redirect; }
  void run();

  void set_deadline(MonotonicTime deadline) {
    deadline_ns_.store(to_ns(deadline));
    wake();
  }
  void set_delay(Duration delay) { delay_ns_.store(delay.count(), std::memory_order_relaxed); }
  void end_effect();
  void stop() {
    stop_.store(true);
    wake();
  }
  void drain(Duration bound) const;
  bool is_well() const { return !broken_.load(); }
  DnsCounts counts() const;

 private:
  Status open_place(std::size_t place);
  Status watch(int fd, Source source, std::uint64_t number, std::uint32_t events);
  void wake() const;
  bool await_passes(MonotonicTime until) const;
  bool is_acting(MonotonicTime now) const {
    return !ended_.load() && to_ns(now) < deadline_ns_.load();
  }
  bool is_for_a_resolver(const DnsQuestion& question) const;
  Verdict judge(DnsBytes query, MonotonicTime now);
  void handle(const epoll_event& event, MonotonicTime now);
  void send_due(MonotonicTime now);
  void give_up(MonotonicTime now);
  MonotonicTime next_wake(MonotonicTime now) const;

  void read_queries(std::size_t place, MonotonicTime now);
  void forward(std::size_t place, const Address& client, DnsBytes query, const Verdict& verdict,
               MonotonicTime now);
  void read_answer(std::uint64_t number, MonotonicTime now);
  void answer(std::size_t place, const Address& client, DnsMessage message, bool late,
              MonotonicTime now);
  void say_failed(std::size_t place, const Address& client, DnsBytes query) const;
  void send_datagram(std::size_t place, const Address& client, DnsBytes message) const;

  void accept_clients(std::size_t place, MonotonicTime now);
  void serve(std::uint64_t number, bool from_server, std::uint32_t events, MonotonicTime now);
  bool read_client(Connection& connection, std::uint64_t number, MonotonicTime now);
  void read_server(Connection& connection, MonotonicTime now);
  bool connect_server(Connection& connection, std::uint64_t number);
  void enqueue(Connection& connection, DnsMessage message, bool late, MonotonicTime now);
  bool write_due(Connection& connection, MonotonicTime now);
  bool settle(std::uint64_t number, Connection& connection);
  void close(std::uint64_t number);

  Duration delay() const { return Duration(delay_ns_.load(std::memory_order_relaxed)); }

  Effect effect_;
  std::atomic<std::int64_t> delay_ns_;
  const DnsRedirect* redirect_ = nullptr;
  DnsPorts ports_{};
  std::array<Fd, kDnsPlaces> udp_;
  std::array<Fd, kDnsPlaces> tcp_;
  Fd epoll_;
  Fd wake_;

  std::uint64_t next_number_ = 1;
  std::map<std::uint64_t, Forward> forwards_;        // the oldest first
  std::map<std::uint64_t, Connection> connections_;  // the oldest first
  std::multimap<MonotonicTime, LateDatagram> late_;

  std::atomic<std::int64_t> deadline_ns_ = 0;
  std::atomic<bool> ended_ = false;
  std::atomic<bool> stop_ = false;
  std::atomic<bool> broken_ = false;
  std::atomic<std::size_t> waiting_ = 0;
  std::atomic<std::uint64_t> passes_ = 0;
  mutable std::atomic<std::int64_t> sent_ns_ = 0;  // when a datagram was last answered
  std::atomic<std::uint64_t> matched_ = 0;
  std::atomic<std::uint64_t> answered_ = 0;
  std::atomic<std::uint64_t> unanswered_ = 0;
  std::atomic<std::uint64_t> delayed_ = 0;
  std::atomic<std::uint64_t> forwarded_ = 0;
  std::atomic<std::uint64_t> overflow_ = 0;
};

// Set up.

Status DnsResponder::Loop::open() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_.is_open() || !wake_.is_open()) return from_errno("cannot wait for queries", errno);
  if (Status watched = watch(wake_.number(), Source::kWake, 0, EPOLLIN); !watched.ok()) {
    return watched;
  }
  for (std::size_t place = 0; place < kDnsPlaces; ++place) {
    Status opened = open_place(place);
    // A node may be without IPv6; then nobody asks by it.
    if (place >= SQUALL_DNS_SERVERS && opened.code() == StatusCode::kFailedPrecondition) break;
    if (!opened.ok()) return opened;
  }
  return ok();
}

/// One port for both protocols. The kernel chooses it for UDP, and TCP may have it in use already.
Status DnsResponder::Loop::open_place(std::size_t place) {
  const bool ipv6 = place >= SQUALL_DNS_SERVERS;
  const int family = ipv6 ? AF_INET6 : AF_INET;
  for (int attempt = 0; attempt < kBindAttempts; ++attempt) {
    Fd udp = open_socket(family, SOCK_DGRAM);
    Fd tcp = open_socket(family, SOCK_STREAM);
    if ((!udp.is_open() || !tcp.is_open()) && errno == EAFNOSUPPORT) {
      return error(StatusCode::kFailedPrecondition, "this address family is switched off");
    }
    if (!udp.is_open() || !tcp.is_open()) return from_errno("cannot open a socket", errno);
    Address own = loopback(ipv6, 0);
    if (::bind(udp.number(), own.get(), own.size) != 0) {
      if (errno != EADDRNOTAVAIL) return from_errno("cannot listen on the loopback", errno);
      return error(StatusCode::kFailedPrecondition,
                   "the loopback interface is down, so that nobody could be answered there");
    }
    if (::getsockname(udp.number(), own.get(), &own.size) != 0) {
      return from_errno("cannot read a socket's port", errno);
    }
    if (::bind(tcp.number(), own.get(), own.size) != 0 || ::listen(tcp.number(), SOMAXCONN) != 0) {
      if (errno == EADDRINUSE) continue;
      return from_errno("cannot listen on the loopback", errno);
    }
    ports_[place] = ntohs(ipv6 ? reinterpret_cast<sockaddr_in6&>(own.storage).sin6_port
                               : reinterpret_cast<sockaddr_in&>(own.storage).sin_port);
    for (const auto& [fd, source] :
         {std::pair(udp.number(), Source::kUdp), std::pair(tcp.number(), Source::kTcp)}) {
      if (Status watched = watch(fd, source, place, EPOLLIN); !watched.ok()) return watched;
    }
    udp_[place] = std::move(udp);
    tcp_[place] = std::move(tcp);
    return ok();
  }
  return error(StatusCode::kResourceExhausted, "no port on the loopback is free for UDP and TCP");
}

Status DnsResponder::Loop::watch(int fd, Source source, std::uint64_t number,
                                 std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = token_of(source, number);
  if (::epoll_ctl(epoll_.number(), EPOLL_CTL_ADD, fd, &event) == 0) return ok();
  return from_errno("cannot wait for a socket", errno);
}

void DnsResponder::Loop::wake() const {
  const std::uint64_t one = 1;
  // Full: then it is awake anyway.
  static_cast<void>(!::write(wake_.number(), &one, sizeof one));
}

// The loop.

void DnsResponder::Loop::run() {
  ::prctl(PR_SET_NAME, "squall-dns");
  try {
    std::array<epoll_event, kBatch> events;
    while (!stop_.load()) {
      MonotonicTime now = monotonic_now();
      send_due(now);
      give_up(now);
      ++passes_;
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(next_wake(now) - monotonic_now());
      const int count = ::epoll_wait(epoll_.number(), events.data(), kBatch,
                                     static_cast<int>(std::clamp<long>(left.count(), 0, 60'000)));
      now = monotonic_now();
      for (const epoll_event& event :
           std::span(events).first(static_cast<std::size_t>(std::max(count, 0)))) {
        handle(event, now);
      }
    }
  } catch (const std::exception&) {
    broken_.store(true);  // out of memory; the next pulse ends the fault
  }
}

void DnsResponder::Loop::handle(const epoll_event& event, MonotonicTime now) {
  const std::uint64_t number = event.data.u64 & ((std::uint64_t{1} << kSourceShift) - 1);
  switch (static_cast<Source>(event.data.u64 >> kSourceShift)) {
    case Source::kWake: {
      std::uint64_t count = 0;
      static_cast<void>(!::read(wake_.number(), &count, sizeof count));
      break;
    }
    case Source::kUdp:
      read_queries(number, now);
      break;
    case Source::kTcp:
      accept_clients(number, now);
      break;
    case Source::kForward:
      read_answer(number, now);
      break;
    case Source::kClient:
      serve(number, false, event.events, now);
      break;
    case Source::kServer:
      serve(number, true, event.events, now);
      break;
  }
}

MonotonicTime DnsResponder::Loop::next_wake(MonotonicTime now) const {
  MonotonicTime next = now + std::chrono::minutes(1);
  if (!late_.empty()) next = std::min(next, late_.begin()->first);
  if (!forwards_.empty()) next = std::min(next, forwards_.begin()->second.until);
  bool holds = !late_.empty();
  for (const auto& [number, connection] : connections_) {
    next = std::min(next, connection.last_word + kIdle);
    for (const Late& late : connection.late) next = std::min(next, late.due);
    holds = holds || !connection.late.empty();
  }
  // At the deadline what is held goes.
  if (holds && is_acting(now)) next = std::min(next, from_ns(deadline_ns_.load()));
  return next;
}

/// Sends every answer whose time has come; all of them once the fault no longer acts.
void DnsResponder::Loop::send_due(MonotonicTime now) {
  const bool acting = is_acting(now);
  while (!late_.empty() && (!acting || late_.begin()->first <= now)) {
    const LateDatagram& late = late_.begin()->second;
    send_datagram(late.place, late.client, late.message);
    late_.erase(late_.begin());
    ++delayed_;
  }
  std::vector<std::uint64_t> over;
  std::size_t waiting = forwards_.size() + late_.size();
  for (auto& [number, connection] : connections_) {
    if (!write_due(connection, now) || !settle(number, connection)) {
      over.push_back(number);
    } else if (connection.asked > 0 || !connection.late.empty() || !connection.to_client.empty()) {
      ++waiting;
    }
  }
  for (const std::uint64_t number : over) close(number);
  waiting_.store(waiting);
}

/// A server that does not answer, and connections that nobody uses.
void DnsResponder::Loop::give_up(MonotonicTime now) {
  while (!forwards_.empty() && forwards_.begin()->second.until <= now) {
    forwards_.erase(forwards_.begin());
  }
  std::vector<std::uint64_t> over;
  for (const auto& [number, connection] : connections_) {
    if (connection.late.empty() && connection.last_word + kIdle <= now) over.push_back(number);
  }
  for (const std::uint64_t number : over) close(number);
}

/// Whether a resolver of this node asks so for a query that we have passed on to it: a name is to
/// be late once.
bool DnsResponder::Loop::is_for_a_resolver(const DnsQuestion& question) const {
  return std::any_of(forwards_.begin(), forwards_.end(), [&](const auto& entry) {
    const Forward& waiting = entry.second;
    return waiting.to_this_node && waiting.question.type == question.type &&
           waiting.question.name == question.name;
  });
}

Verdict DnsResponder::Loop::judge(DnsBytes query, MonotonicTime now) {
  if (!is_acting(now)) return {};
  Verdict verdict = effect_.judge(query);
  if (verdict.matched && is_for_a_resolver(verdict.question)) return {};
  if (verdict.matched) ++matched_;
  if (verdict.silent) ++unanswered_;
  if (verdict.answer) ++answered_;
  return verdict;
}

// UDP.

void DnsResponder::Loop::read_queries(std::size_t place, MonotonicTime now) {
  std::array<std::uint8_t, kLargestMessage> bytes;
  for (int i = 0; i < kBatch; ++i) {
    Address client;
    const ssize_t size =
        ::recvfrom(udp_[place].number(), bytes.data(), bytes.size(), 0, client.get(), &client.size);
    if (size < 0) return;
    const DnsBytes query = DnsBytes(bytes).first(static_cast<std::size_t>(size));
    Verdict verdict = judge(query, now);
    if (verdict.silent) continue;
    if (verdict.answer) {
      answer(place, client, *std::move(verdict.answer), true, now);
    } else {
      forward(place, client, query, verdict, now);
    }
  }
}

void DnsResponder::Loop::forward(std::size_t place, const Address& client, DnsBytes query,
                                 const Verdict& verdict, MonotonicTime now) {
  const std::optional<sockaddr_storage> server = redirect_->server(place);
  if (!server) return;  // nobody was sent here: a stranger on this port
  if (forwards_.size() >= kMostForwards) {
    forwards_.erase(forwards_.begin());
    ++overflow_;
  }
  Forward forward;
  forward.place = place;
  forward.client = client;
  forward.matched = verdict.matched;
  forward.question = verdict.question;
  forward.until = now + kPatience;
  forward.server = open_socket(server->ss_family, SOCK_DGRAM);
  if (!forward.server.is_open()) {
    ++overflow_;
    return;
  }
  const std::uint64_t number = next_number_++;
  if (::connect(forward.server.number(), reinterpret_cast<const sockaddr*>(&*server),
                sizeof *server) != 0 ||
      ::send(forward.server.number(), query.data(), query.size(), MSG_NOSIGNAL) < 0 ||
      !watch(forward.server.number(), Source::kForward, number, EPOLLIN).ok()) {
    say_failed(place, client, query);
    return;
  }
  ++forwarded_;
  forward.to_this_node = verdict.matched && leads_home(forward.server.number());
  forward.query.assign(query.begin(), query.end());
  forwards_.emplace(number, std::move(forward));
}

void DnsResponder::Loop::read_answer(std::uint64_t number, MonotonicTime now) {
  const auto found = forwards_.find(number);
  if (found == forwards_.end()) return;
  Forward& forward = found->second;
  std::array<std::uint8_t, kLargestMessage> bytes;
  const ssize_t size = ::recv(forward.server.number(), bytes.data(), bytes.size(), 0);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (size < 0) {
    say_failed(forward.place, forward.client, forward.query);
  } else {
    const DnsBytes message = DnsBytes(bytes).first(static_cast<std::size_t>(size));
    if (id_of(message) != id_of(forward.query)) return;  // not the one that is waited for
    answer(forward.place, forward.client, DnsMessage(message.begin(), message.end()),
           forward.matched, now);
  }
  forwards_.erase(number);
}

void DnsResponder::Loop::answer(std::size_t place, const Address& client, DnsMessage message,
                                bool late, MonotonicTime now) {
  const Duration later = late && is_acting(now) ? delay() : Duration::zero();
  if (later == Duration::zero()) {
    send_datagram(place, client, message);
    return;
  }
  if (late_.size() >= kMostHeld) {
    late_.erase(late_.begin());
    ++overflow_;
  }
  late_.emplace(now + later, LateDatagram{place, client, std::move(message)});
}

/// What a client would have seen as an error on its socket (a port that refuses, no route) can only
/// be told so.
void DnsResponder::Loop::say_failed(std::size_t place, const Address& client,
                                    DnsBytes query) const {
  const std::optional<DnsQuestion> question = read_question(query);
  if (question) send_datagram(place, client, make_answer(query, *question, DnsCode::kServfail));
}

void DnsResponder::Loop::send_datagram(std::size_t place, const Address& client,
                                       DnsBytes message) const {
  sent_ns_ = to_ns(monotonic_now());
  // What a full socket does not take is lost, as on any network.
  static_cast<void>(::sendto(udp_[place].number(), message.data(), message.size(), MSG_NOSIGNAL,
                             client.get(), client.size));
}

// TCP.

void DnsResponder::Loop::accept_clients(std::size_t place, MonotonicTime now) {
  Fd client(::accept4(tcp_[place].number(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!client.is_open()) {
    // Without room for it, it would be offered again and again.
    if ((errno == EMFILE || errno == ENFILE) && !connections_.empty()) {
      close(connections_.begin()->first);
      ++overflow_;
    }
    return;
  }
  if (connections_.size() >= kMostConnections) {
    close(connections_.begin()->first);
    ++overflow_;
  }
  const int on = 1;
  ::setsockopt(client.number(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const std::uint64_t number = next_number_++;
  if (!watch(client.number(), Source::kClient, number, EPOLLIN).ok()) return;
  Connection& connection = connections_[number];
  connection.place = place;
  connection.client = std::move(client);
  connection.client_events = EPOLLIN;
  connection.last_word = now;
}

void DnsResponder::Loop::serve(std::uint64_t number, bool from_server, std::uint32_t events,
                               MonotonicTime now) {
  const auto found = connections_.find(number);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  connection.last_word = now;
  // A client that is gone in both directions hears nothing any more.
  bool lives = from_server || (events & (EPOLLHUP | EPOLLERR)) == 0;
  if (lives && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    if (from_server) {
      read_server(connection, now);
    } else {
      lives = read_client(connection, number, now);
    }
  }
  if (lives && connection.server.is_open() && !connection.to_server.empty()) {
    if (!connection.to_server.write(connection.server.number())) connection.server_ended = true;
  }
  if (!lives || !write_due(connection, now) || !settle(number, connection)) close(number);
}

/// Returns whether the connection is still of use.
bool DnsResponder::Loop::read_client(Connection& connection, std::uint64_t number,
                                     MonotonicTime now) {
  switch (connection.from_client.read(connection.client.number())) {
    case Inbox::Read::kNothing:
      return true;
    case Inbox::Read::kEnd:
      connection.client_ended = true;
      return true;
    case Inbox::Read::kSome:
      break;
  }
  while (std::optional<DnsMessage> query = connection.from_client.next()) {
    Verdict verdict = judge(*query, now);
    if (verdict.silent) continue;
    if (verdict.answer) {
      enqueue(connection, *std::move(verdict.answer), true, now);
      continue;
    }
    if (!connection.server.is_open() && !connect_server(connection, number)) return false;
    ++forwarded_;
    ++connection.asked;
    connection.to_server.add(*query);
  }
  return true;
}

void DnsResponder::Loop::read_server(Connection& connection, MonotonicTime now) {
  switch (connection.from_server.read(connection.server.number())) {
    case Inbox::Read::kNothing:
      return;
    case Inbox::Read::kEnd:
      connection.server_ended = true;
      return;
    case Inbox::Read::kSome:
      break;
  }
  while (std::optional<DnsMessage> message = connection.from_server.next()) {
    const bool late = effect_.concerns(*message);
    if (connection.asked > 0) --connection.asked;
    enqueue(connection, *std::move(message), late, now);
  }
}

bool DnsResponder::Loop::connect_server(Connection& connection, std::uint64_t number) {
  const std::optional<sockaddr_storage> server = redirect_->server(connection.place);
  if (!server) return false;
  connection.from_server = Inbox();
  connection.to_server = Outbox();
  connection.asked = 0;
  connection.server_ended = false;
  connection.server_told = false;
  connection.server = open_socket(server->ss_family, SOCK_STREAM);
  const int fd = connection.server.number();
  if (fd < 0) {
    ++overflow_;
    return false;
  }
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&*server), sizeof *server) != 0 &&
      errno != EINPROGRESS) {
    return false;
  }
  connection.server_events = EPOLLIN | EPOLLOUT;
  return watch(fd, Source::kServer, number, connection.server_events).ok();
}

void DnsResponder::Loop::enqueue(Connection& connection, DnsMessage message, bool late,
                                 MonotonicTime now) {
  const Duration later = late && is_acting(now) ? delay() : Duration::zero();
  const bool held = later > Duration::zero();
  MonotonicTime due = now + later;
  // The messages of one transfer stay in their order.
  for (const Late& other : connection.late) {
    if (id_of(other.message) == id_of(message)) due = std::max(due, other.due);
  }
  if (held) ++delayed_;
  connection.late_bytes += message.size();
  connection.late.push_back({due, std::move(message)});
}

/// Returns whether the client still takes anything.
bool DnsResponder::Loop::write_due(Connection& connection, MonotonicTime now) {
  const bool acting = is_acting(now);
  for (auto late = connection.late.begin(); late != connection.late.end();) {
    if (acting && late->due > now) {
      ++late;
      continue;
    }
    connection.to_client.add(late->message);
    connection.late_bytes -= late->message.size();
    late = connection.late.erase(late);
  }
  return connection.to_client.write(connection.client.number());
}

/// Waits for what there is room or need for. Returns whether the connection is still of use.
bool DnsResponder::Loop::settle(std::uint64_t number, Connection& connection) {
  const bool flushed = connection.late.empty() && connection.to_client.empty();
  if (connection.server_ended && connection.server.is_open()) connection.server.reset();
  if (flushed && connection.server_ended) return false;
  if (connection.client_ended) {
    if (flushed && !connection.server.is_open()) return false;
    if (connection.server.is_open() && connection.to_server.empty() && !connection.server_told) {
      connection.server_told = ::shutdown(connection.server.number(), SHUT_WR) == 0;
    }
  }
  const bool has_room = connection.late_bytes + connection.to_client.size() < kMostBytes;
  const auto wait_for = [&](int fd, Source source, std::uint32_t wanted, std::uint32_t& current) {
    if (wanted == current) return;
    epoll_event event{};
    event.events = wanted;
    event.data.u64 = token_of(source, number);
    if (::epoll_ctl(epoll_.number(), EPOLL_CTL_MOD, fd, &event) == 0) current = wanted;
  };
  const bool listens =
      !connection.client_ended && has_room && connection.to_server.size() < kMostBytes;
  wait_for(connection.client.number(), Source::kClient,
           (listens ? EPOLLIN : 0u) | (connection.to_client.empty() ? 0u : EPOLLOUT),
           connection.client_events);
  if (connection.server.is_open()) {
    wait_for(connection.server.number(), Source::kServer,
             (has_room ? EPOLLIN : 0u) | (connection.to_server.empty() ? 0u : EPOLLOUT),
             connection.server_events);
  }
  return true;
}

void DnsResponder::Loop::close(std::uint64_t number) { connections_.erase(number); }

// What the holder's thread calls.

/// Waits until everything that had come when it was called has been looked at: for one whole pass.
bool DnsResponder::Loop::await_passes(MonotonicTime until) const {
  const std::uint64_t seen = passes_.load();
  wake();
  while (passes_.load() < seen + 2 && !broken_.load()) {
    if (monotonic_now() >= until) return false;
    const timespec pause{.tv_sec = 0, .tv_nsec = 100'000};
    ::nanosleep(&pause, nullptr);
    wake();
  }
  return true;
}

void DnsResponder::Loop::end_effect() {
  ended_.store(true);
  await_passes(monotonic_now() + kEndWithin);
}

void DnsResponder::Loop::drain(Duration bound) const {
  const MonotonicTime until = monotonic_now() + bound;
  while (await_passes(until) && waiting_.load() > 0 && !broken_.load()) {
  }
  const Duration left = from_ns(sent_ns_.load()) + kReadWithin - monotonic_now();
  if (left > Duration::zero()) std::this_thread::sleep_for(left);
}

DnsCounts DnsResponder::Loop::counts() const {
  return {.matched = matched_.load(),
          .answered = answered_.load(),
          .unanswered = unanswered_.load(),
          .delayed = delayed_.load(),
          .forwarded = forwarded_.load(),
          .overflow = overflow_.load()};
}

StatusOr<std::unique_ptr<DnsResponder>> DnsResponder::make(const v1::Dns& wanted) {
  auto loop = std::make_unique<Loop>(wanted);
  if (Status opened = loop->open(); !opened.ok()) return opened;
  return std::unique_ptr<DnsResponder>(new DnsResponder(std::move(loop)));
}

DnsResponder::DnsResponder(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}

DnsResponder::~DnsResponder() {
  loop_->stop();
  if (thread_.joinable()) thread_.join();
}

DnsPorts DnsResponder::ports() const { return loop_->ports(); }

Status DnsResponder::start(const DnsRedirect& redirect) {
  loop_->begin(redirect);
  try {
    thread_ = std::thread([this] { loop_->run(); });
  } catch (const std::system_error& problem) {
    return error(StatusCode::kResourceExhausted,
                 std::string("a thread cannot be started: ") + problem.what());
  }
  return ok();
}

void DnsResponder::pulse(MonotonicTime deadline) { loop_->set_deadline(deadline); }

void DnsResponder::set_delay(Duration delay) { loop_->set_delay(delay); }

void DnsResponder::end_effect() {
  if (thread_.joinable()) loop_->end_effect();
}

void DnsResponder::drain(Duration bound) const {
  if (thread_.joinable()) loop_->drain(bound);
}

DnsCounts DnsResponder::counts() const { return loop_->counts(); }

bool DnsResponder::is_well() const { return loop_->is_well(); }

}  // namespace squall::network
