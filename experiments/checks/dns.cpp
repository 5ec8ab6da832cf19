/// \file
/// dns: asks a name server for a name, once, by c-ares. What the server says is the state, a name
/// that does not exist included; only where it says nothing is there an error.
#include <ares.h>
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <vector>

#include "experiments/base/diagnostic.h"
#include "experiments/checks/kind.h"
#include "experiments/checks/resolve.h"

namespace squall::checks {
namespace {

namespace asio = boost::asio;
using Bytes = std::vector<unsigned char>;
using Descriptor = asio::posix::stream_descriptor;

/// As the protocol numbers it.
int number_of(v1::DnsRecord record) {
  switch (record) {
    case v1::DNS_RECORD_AAAA:
      return ns_t_aaaa;
    case v1::DNS_RECORD_CNAME:
      return ns_t_cname;
    case v1::DNS_RECORD_MX:
      return ns_t_mx;
    case v1::DNS_RECORD_NS:
      return ns_t_ns;
    case v1::DNS_RECORD_PTR:
      return ns_t_ptr;
    case v1::DNS_RECORD_SRV:
      return ns_t_srv;
    case v1::DNS_RECORD_TXT:
      return ns_t_txt;
    default:
      return ns_t_a;
  }
}

/// Reads what a server sent, which may be anything. Source: RFC 1035, 4.1.
class Reply {
 public:
  explicit Reply(const Bytes& bytes) : bytes_(bytes) {}

  /// RCODE; nothing where there is not even a head.
  std::optional<int> code() const {
    if (bytes_.size() < NS_HFIXEDSZ) return std::nullopt;
    return bytes_[3] & 0x0f;
  }

  /// The answer's records of one type in words, sorted, for their order means nothing.
  std::vector<std::string> records(int type) {
    std::vector<std::string> found;
    at_ = NS_HFIXEDSZ;
    for (unsigned left = number_at(4); left > 0; --left) {
      if (!name() || !skip(4)) return found;
    }
    for (unsigned left = number_at(6); left > 0; --left) {
      if (!name() || !skip(10)) break;
      const unsigned is = number_at(at_ - 10);
      const std::size_t length = number_at(at_ - 2);
      const std::size_t begin = at_;
      if (!skip(length)) break;
      if (static_cast<int>(is) != type) continue;
      const std::size_t next = std::exchange(at_, begin);
      if (auto words = record(type, length)) found.push_back(std::move(*words));
      at_ = next;
    }
    std::ranges::sort(found);
    return found;
  }

 private:
  unsigned number_at(std::size_t at) const {
    return static_cast<unsigned>(bytes_[at]) << 8U | bytes_[at + 1];
  }

  bool skip(std::size_t length) {
    if (length > bytes_.size() - at_) return false;
    at_ += length;
    return true;
  }

  /// A name, without the root's dot.
  std::optional<std::string> name() {
    if (at_ >= bytes_.size()) return std::nullopt;
    char* text = nullptr;
    long length = 0;
    if (ares_expand_name(bytes_.data() + at_, bytes_.data(), static_cast<int>(bytes_.size()), &text,
                         &length) != ARES_SUCCESS) {
      return std::nullopt;
    }
    std::string name = text;
    ares_free_string(text);
    at_ += static_cast<std::size_t>(length);
    return name;
  }

  std::optional<std::string> record(int type, std::size_t length) {
    const unsigned char* const here = bytes_.data() + at_;
    switch (type) {
      case ns_t_a:
      case ns_t_aaaa: {
        const bool is_ipv4 = type == ns_t_a;
        char text[INET6_ADDRSTRLEN];
        if (length != (is_ipv4 ? sizeof(in_addr) : sizeof(in6_addr))) return std::nullopt;
        return inet_ntop(is_ipv4 ? AF_INET : AF_INET6, here, text, sizeof text);
      }
      case ns_t_mx: {
        if (length < 2 || !skip(2)) return std::nullopt;
        const unsigned preference = number_at(at_ - 2);
        const auto host = name();
        if (!host) return std::nullopt;
        return fmt::format("{} {}", preference, *host);
      }
      case ns_t_srv: {
        if (length < 6 || !skip(6)) return std::nullopt;
        const std::size_t from = at_ - 6;
        const auto host = name();
        if (!host) return std::nullopt;
        return fmt::format("{} {} {} {}", number_at(from), number_at(from + 2), number_at(from + 4),
                           *host);
      }
      case ns_t_txt: {
        std::string text;
        for (std::size_t i = 0; i < length; i += 1U + here[i]) {
          if (i + 1 + here[i] > length) return std::nullopt;
          text.append(reinterpret_cast<const char*>(here) + i + 1, here[i]);
        }
        return text;
      }
      default:
        return name();
    }
  }

  const Bytes& bytes_;
  std::size_t at_ = 0;
};

struct FreeChannel {
  void operator()(ares_channel channel) const { ares_destroy(channel); }
};

/// One query on its way. Lives in the frame of ask(), and ends with it: c-ares then closes its
/// sockets.
class Query {
 public:
  Query(const asio::any_io_executor& executor, MonotonicTime deadline)
      : executor_(executor), wake_(executor, deadline) {}

  /// It may be over when this returns.
  void start(const std::optional<asio::ip::tcp::endpoint>& server, const std::string& name,
             int type, bool by_tcp) {
    ares_options options{};
    // Whatever the server says is the answer, and it is asked just once: when is too late is told
    // by `wake_`.
    options.flags = ARES_FLAG_NOCHECKRESP | (by_tcp ? ARES_FLAG_USEVC : 0);
    options.tries = 1;
    options.timeout = 24 * 3600 * 1000;
    options.sock_state_cb = [](void* user, ares_socket_t socket, int readable, int writable) {
      static_cast<Query*>(user)->want(socket, readable != 0, writable != 0);
    };
    options.sock_state_cb_data = this;
    ares_channel made = nullptr;
    const int failed = ares_init_options(
        &made, &options,
        ARES_OPT_FLAGS | ARES_OPT_TRIES | ARES_OPT_TIMEOUTMS | ARES_OPT_SOCK_STATE_CB);
    channel_.reset(made);
    // Only a lack of memory fails here.
    if (failed != ARES_SUCCESS || (server && !set_server(*server))) throw std::bad_alloc();
    ares_set_socket_functions(made, &kSockets, this);
    ares_query(made, name.c_str(), ns_c_in, type, &Query::on_answer, this);
  }

  bool over() const { return over_; }
  const Bytes& reply() const { return reply_; }
  int last_errno() const { return last_errno_; }
  asio::steady_timer& wake() { return wake_; }

 private:
  struct Watch {
    explicit Watch(const asio::any_io_executor& executor) : descriptor(executor) {}
    ~Watch() { descriptor.release(); }  // the socket is c-ares's to close
    Descriptor descriptor;
    bool read = false, write = false;       ///< What c-ares wants.
    bool reading = false, writing = false;  ///< What is being waited for.
  };

  /// The sockets, made here so that it is known why one failed: c-ares says only that it did.
  static const ares_socket_functions kSockets;

  ssize_t noted(ssize_t result) {
    if (result < 0 && errno != EAGAIN && errno != EINPROGRESS) last_errno_ = errno;
    return result;
  }

  bool set_server(const asio::ip::tcp::endpoint& server) {
    ares_addr_port_node node{};
    node.udp_port = node.tcp_port = server.port();
    if (server.address().is_v4()) {
      node.family = AF_INET;
      std::memcpy(&node.addr, server.address().to_v4().to_bytes().data(), sizeof(in_addr));
    } else {
      node.family = AF_INET6;
      std::memcpy(&node.addr, server.address().to_v6().to_bytes().data(), sizeof(in6_addr));
    }
    return ares_set_servers_ports(channel_.get(), &node) == ARES_SUCCESS;
  }

  static void on_answer(void* user, int status, int, unsigned char* bytes, int length) {
    if (status == ARES_EDESTRUCTION) return;
    auto& query = *static_cast<Query*>(user);
    query.over_ = true;
    if (bytes != nullptr) query.reply_.assign(bytes, bytes + length);
    query.wake_.cancel();
  }

  void want(ares_socket_t socket, bool read, bool write) {
    if (!read && !write) {
      const auto gone = watches_.find(socket);
      if (gone == watches_.end()) return;
      // Now, for the number may soon be that of another socket.
      gone->second->descriptor.release();
      watches_.erase(gone);
      return;
    }
    auto& watch = watches_[socket];
    if (!watch) {
      watch = std::make_shared<Watch>(executor_);
      watch->descriptor.assign(socket);
    }
    watch->read = read;
    watch->write = write;
    arm(socket, watch);
  }

  void arm(ares_socket_t socket, const std::shared_ptr<Watch>& watch) {
    if (watch->read && !watch->reading) wait(socket, watch, Descriptor::wait_read, &Watch::reading);
    if (watch->write && !watch->writing) {
      wait(socket, watch, Descriptor::wait_write, &Watch::writing);
    }
  }

  void wait(ares_socket_t socket, const std::shared_ptr<Watch>& watch, Descriptor::wait_type type,
            bool Watch::*waiting) {
    (*watch).*waiting = true;
    watch->descriptor.async_wait(type, [this, weak = std::weak_ptr(watch), socket, type,
                                        waiting](boost::system::error_code) {
      // With the query its watches are gone, and with a closed socket its own.
      const auto alive = weak.lock();
      if (!alive) return;
      (*alive).*waiting = false;
      const bool is_read = type == Descriptor::wait_read;
      ares_process_fd(channel_.get(), is_read ? socket : ARES_SOCKET_BAD,
                      is_read ? ARES_SOCKET_BAD : socket);
      const auto found = watches_.find(socket);
      if (found != watches_.end() && found->second == alive) arm(socket, alive);
    });
  }

  asio::any_io_executor executor_;
  asio::steady_timer wake_;  ///< Expires at the deadline; cancelled when the query is over.
  bool over_ = false;
  int last_errno_ = 0;
  Bytes reply_;
  std::map<ares_socket_t, std::shared_ptr<Watch>> watches_;
  std::unique_ptr<ares_channeldata, FreeChannel>
      channel_;  ///< Goes first: it tells of its sockets.
};

const ares_socket_functions Query::kSockets = {
    .asocket = [](int domain, int type, int protocol, void* user) -> ares_socket_t {
      return static_cast<ares_socket_t>(static_cast<Query*>(user)->noted(
          socket(domain, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol)));
    },
    .aclose = [](ares_socket_t socket, void*) { return close(socket); },
    .aconnect =
        [](ares_socket_t socket, const sockaddr* address, ares_socklen_t length, void* user) {
          return static_cast<int>(
              static_cast<Query*>(user)->noted(connect(socket, address, length)));
        },
    .arecvfrom = [](ares_socket_t socket, void* into, std::size_t most, int flags, sockaddr* from,
                    ares_socklen_t* length, void* user) -> ares_ssize_t {
      return static_cast<Query*>(user)->noted(recvfrom(socket, into, most, flags, from, length));
    },
    .asendv = [](ares_socket_t socket, const iovec* parts, int count, void* user) -> ares_ssize_t {
      return static_cast<Query*>(user)->noted(writev(socket, parts, count));
    }};

class Dns final : public Check {
 public:
  explicit Dns(const v1::Check& check) : wanted_(check.dns()), timeout_(timeout_of(check)) {
    if (wanted_.server().empty()) return;
    HostPort server = split(wanted_.server());
    resolver_.emplace(std::move(server.host), std::move(server.port));
  }

  asio::awaitable<Sample> ask() override {
    Sample sample;
    sample.asked = monotonic_now();
    co_await ask(sample.asked + timeout_, sample);
    sample.latency = monotonic_now() - sample.asked;
    co_return sample;
  }

 private:
  asio::awaitable<void> ask(MonotonicTime deadline, Sample& sample) {
    std::optional<asio::ip::tcp::endpoint> server;
    if (resolver_) {
      const Resolved resolved = co_await resolver_->resolve(deadline, timeout_);
      if (!resolved.error.empty()) {
        sample.error = resolved.error;
        sample.state = monotonic_now() >= deadline ? "timeout" : "unreachable";
        co_return;
      }
      server = resolved.endpoints.front();
    }
    Query query(co_await asio::this_coro::executor, deadline);
    const int type = number_of(wanted_.record());
    query.start(server, wanted_.name(), type, wanted_.tcp());
    bool too_late = false;
    if (!query.over()) {
      const auto [woken] = co_await query.wake().async_wait(asio::as_tuple(asio::use_awaitable));
      too_late = !woken;
    }
    if (query.over()) {
      take(query, type, sample);
    } else {
      sample.state = "timeout";
      sample.error = too_late ? timeout_words(timeout_) : kCancelled;
    }
  }

  static void take(const Query& query, int type, Sample& sample) {
    Reply reply(query.reply());
    const auto code = reply.code();
    if (!code) {
      sample.state = "unreachable";
      sample.error = query.last_errno() != 0 ? errno_words(query.last_errno())
                                             : "connection closed without an answer";
      return;
    }
    switch (*code) {
      case ns_r_noerror:
        sample.state = "noerror";
        break;
      case ns_r_nxdomain:
        sample.state = "nxdomain";
        break;
      case ns_r_servfail:
        sample.state = "servfail";
        break;
      case ns_r_refused:
        sample.state = "refused";
        break;
      default:
        sample.error = fmt::format("the server answered with code {}", *code);
        return;
    }
    const std::vector<std::string> records = reply.records(type);
    sample.numbers["count"] = static_cast<double>(records.size());
    sample.output = fmt::format("{}", fmt::join(records, ", "));
  }

  v1::DnsCheck wanted_;
  Duration timeout_;
  std::optional<Resolver> resolver_;  ///< Of the server; none: resolv.conf says which are asked.
};

}  // namespace

const CheckKind kDns{.which = v1::Check::kDns, .make = [](const v1::Check& check) {
                       return std::unique_ptr<Check>(new Dns(check));
                     }};

}  // namespace squall::checks
