#include "experiments/checks/fetch.h"

#include <fmt/format.h>

#include <array>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cctype>
#include <cerrno>
#include <map>
#include <new>
#include <optional>
#include <string_view>

#include "experiments/checks/curl.h"
#include "experiments/checks/kind.h"

namespace squall::checks {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr std::size_t kKept = 64 * 1024;
constexpr std::size_t kMost = 10'000'000;

/// Lower case first letter, unless the word is an acronym (SSL, HTTP); no full stop.
std::string as_clause(std::string text) {
  while (!text.empty() &&
         (text.back() == '.' || std::isspace(static_cast<unsigned char>(text.back())))) {
    text.pop_back();
  }
  if (text.size() > 1 && std::islower(static_cast<unsigned char>(text[1]))) {
    text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
  }
  return text;
}

struct FreeEasy {
  void operator()(CURL* easy) const { curl().easy_cleanup(easy); }
};
struct FreeMulti {
  void operator()(CURLM* multi) const { curl().multi_cleanup(multi); }
};
struct FreeList {
  void operator()(curl_slist* list) const { curl().slist_free_all(list); }
};

/// One request under way. Lives in the frame of fetch().
struct Transfer {
  explicit Transfer(const asio::any_io_executor& executor) : wake(executor) {}

  std::unique_ptr<CURL, FreeEasy> easy;
  std::unique_ptr<curl_slist, FreeList> headers;
  std::unique_ptr<curl_slist, FreeList> connect_to;
  asio::steady_timer wake;  ///< Expires at the deadline; cancelled when the transfer is done.
  std::optional<CURLcode> result;
  MonotonicTime ended;
  std::string body;
  std::size_t received = 0;
  bool too_large = false;
  bool cut = false;
  std::array<char, CURL_ERROR_SIZE> detail{};

  /// Counts header and body bytes alike: either can be endless.
  bool take(std::size_t bytes) {
    received += bytes;
    too_large = received > kMost;
    return !too_large;
  }
};

std::size_t on_body(char* bytes, std::size_t size, std::size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const std::size_t length = size * count;
  if (!transfer.take(length))
    return 0;  // fewer than offered: libcurl gives up with CURLE_WRITE_ERROR
  const std::size_t kept = std::min(length, kKept - transfer.body.size());
  transfer.body.append(bytes, kept);
  transfer.cut = transfer.cut || kept < length;
  return length;
}

std::size_t on_header(char*, std::size_t size, std::size_t count, void* user) {
  return static_cast<Transfer*>(user)->take(size * count) ? size * count : 0;
}

std::string tls_words(const Transfer& transfer, CURLcode code) {
  std::string_view detail = transfer.detail.data();
  for (const std::string_view prefix : {"SSL certificate problem: ", "SSL: "}) {
    if (detail.starts_with(prefix)) detail.remove_prefix(prefix.size());
  }
  // OpenSSL's own: error:0A00010B:SSL routines::wrong version number
  if (const auto routines = detail.rfind("::"); routines != std::string_view::npos) {
    detail.remove_prefix(routines + 2);
  }
  detail = detail.substr(0, detail.find(", errno 0"));
  return "TLS: " + as_clause(detail.empty() ? curl().easy_strerror(code) : std::string(detail));
}

/// What libcurl found wrong with the plan's own files: it says which, and in how many layers.
std::string file_words(const v1::Tls& tls, CURLcode code) {
  if (code == CURLE_SSL_CACERT_BADFILE) {
    return fmt::format("TLS: no authority can be read from {}", tls.ca());
  }
  return fmt::format("TLS: no certificate with its key can be read from {} and {}", tls.cert(),
                     tls.key());
}

std::string error_words(const Transfer& transfer, CURLcode code, const Request& request) {
  long system = 0;
  long redirects = 0;
  curl().easy_getinfo(transfer.easy.get(), CURLINFO_OS_ERRNO, &system);
  curl().easy_getinfo(transfer.easy.get(), CURLINFO_REDIRECT_COUNT, &redirects);
  const std::string_view detail = transfer.detail.data();
  if (transfer.too_large) return "answer larger than 10 MB";
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
      return "cannot resolve name";
    case CURLE_COULDNT_CONNECT:
      return system != 0 ? errno_words(static_cast<int>(system)) : "cannot connect";
    case CURLE_OPERATION_TIMEDOUT:
      return timeout_words(request.timeout);
    case CURLE_TOO_MANY_REDIRECTS:
      return fmt::format("more than {} redirects", kMostRedirects);
    case CURLE_FILESIZE_EXCEEDED:
      return "answer larger than 10 MB";
    case CURLE_GOT_NOTHING:
      return "connection closed without an answer";
    case CURLE_PARTIAL_FILE:
      return "answer cut short";
    case CURLE_WEIRD_SERVER_REPLY:
      return "not an HTTP answer";
    case CURLE_UNSUPPORTED_PROTOCOL:  // of the URL, or of an answer that does not even say HTTP
      if (detail.find("HTTP/0.9") != std::string_view::npos) return "not an HTTP answer";
      return redirects > 0 ? "redirected to neither http nor https" : "neither http nor https";
    case CURLE_URL_MALFORMAT:
      return "not a URL";
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
      return file_words(request.tls, code);
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_SHUTDOWN_FAILED:
      return tls_words(transfer, code);
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
      if (system == ECONNRESET || system == EPIPE ||
          std::string_view(transfer.detail.data()).find("reset by peer") !=
              std::string_view::npos) {
        return "connection reset";
      }
      // The other side's no to a certificate of ours comes after the handshake.
      if (detail.find(" routines::") != std::string_view::npos) return tls_words(transfer, code);
      [[fallthrough]];
    default:
      return as_clause(transfer.detail[0] != '\0' ? transfer.detail.data()
                                                  : curl().easy_strerror(code));
  }
}

/// The sockets and the timer that libcurl waits for, on one executor. Exists only while something
/// is asked, so that an idle Fetcher holds nothing of the loop.
class Loop : public std::enable_shared_from_this<Loop> {
 public:
  Loop(CURLM* multi, const asio::any_io_executor& executor)
      : multi_(multi), executor_(executor), timer_(executor) {}

  const asio::any_io_executor& executor() const { return executor_; }

  void want(curl_socket_t socket, int what) {
    auto found = watches_.find(socket);
    if (what == CURL_POLL_REMOVE) {
      if (found == watches_.end()) return;
      found->second->descriptor.release();  // the socket is libcurl's to close
      watches_.erase(found);
      return;
    }
    if (found == watches_.end()) {
      auto watch = std::make_shared<Watch>(executor_);
      error_code failed;
      watch->descriptor.assign(socket, failed);
      if (failed) return;  // then the deadline ends the transfer
      found = watches_.emplace(socket, std::move(watch)).first;
    }
    found->second->read = what == CURL_POLL_IN || what == CURL_POLL_INOUT;
    found->second->write = what == CURL_POLL_OUT || what == CURL_POLL_INOUT;
    arm(socket, found->second);
  }

  void call_after(long ms) {
    timer_.cancel();
    if (ms < 0) return;
    timer_.expires_after(std::chrono::milliseconds(ms));
    timer_.async_wait([weak = weak_from_this()](error_code failed) {
      const auto loop = weak.lock();
      if (!failed && loop) loop->act(CURL_SOCKET_TIMEOUT, 0);
    });
  }

 private:
  struct Watch {
    explicit Watch(const asio::any_io_executor& executor) : descriptor(executor) {}
    ~Watch() { descriptor.release(); }
    asio::posix::stream_descriptor descriptor;
    bool read = false, write = false;       ///< What libcurl wants.
    bool reading = false, writing = false;  ///< What is being waited for.
  };

  void arm(curl_socket_t socket, const std::shared_ptr<Watch>& watch) {
    if (watch->read && !watch->reading) {
      wait(socket, watch, asio::posix::stream_descriptor::wait_read, CURL_CSELECT_IN,
           &Watch::reading);
    }
    if (watch->write && !watch->writing) {
      wait(socket, watch, asio::posix::stream_descriptor::wait_write, CURL_CSELECT_OUT,
           &Watch::writing);
    }
  }

  void wait(curl_socket_t socket, const std::shared_ptr<Watch>& watch,
            asio::posix::stream_descriptor::wait_type type, int mask, bool Watch::*waiting) {
    (*watch).*waiting = true;
    watch->descriptor.async_wait(
        type, [weak = weak_from_this(), socket, watch, mask, waiting](error_code failed) {
          (*watch).*waiting = false;
          const auto loop = weak.lock();
          // The number may by now be that of another socket, with another watch.
          const auto current = [&] {
            const auto found = loop->watches_.find(socket);
            return found != loop->watches_.end() && found->second == watch;
          };
          if (failed == asio::error::operation_aborted || !loop || !current()) return;
          if (mask == CURL_CSELECT_IN ? watch->read : watch->write) {
            loop->act(socket, failed ? CURL_CSELECT_ERR : mask);
          }
          if (current()) loop->arm(socket, watch);
        });
  }

  void act(curl_socket_t socket, int mask) {
    int running = 0;
    curl().multi_socket_action(multi_, socket, mask, &running);
    int left = 0;
    while (const CURLMsg* message = curl().multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      void* user = nullptr;
      curl().easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &user);
      auto& transfer = *static_cast<Transfer*>(user);
      transfer.result = message->data.result;
      transfer.ended = monotonic_now();
      transfer.wake.cancel();
    }
  }

  CURLM* multi_;
  asio::any_io_executor executor_;
  asio::steady_timer timer_;
  std::map<curl_socket_t, std::shared_ptr<Watch>> watches_;
};

template <typename Value>
void set(CURL* easy, CURLoption option, Value value) {
  // Only a lack of memory, or an option this libcurl was built without, fails here.
  if (curl().easy_setopt(easy, option, value) != CURLE_OK) throw std::bad_alloc();
}

bool has_header(const Request& request, std::string_view name) {
  for (const auto& [known, value] : request.headers) {
    if (known.size() == name.size() &&
        curl().strnequal(known.c_str(), name.data(), name.size()) != 0) {
      return true;
    }
  }
  return false;
}

void append(std::unique_ptr<curl_slist, FreeList>& list, const std::string& line) {
  curl_slist* longer = curl().slist_append(list.get(), line.c_str());
  if (longer == nullptr) throw std::bad_alloc();
  static_cast<void>(list.release());
  list.reset(longer);
}

/// What stands between a URL's scheme and its path, without who logs in.
std::string_view authority_in(std::string_view url) {
  const auto scheme = url.find("://");
  if (scheme == std::string_view::npos) return {};
  std::string_view authority = url.substr(scheme + 3);
  authority = authority.substr(0, authority.find_first_of("/?#"));
  const auto login = authority.rfind('@');
  return login == std::string_view::npos ? authority : authority.substr(login + 1);
}

/// An IPv6 address with its brackets.
std::string_view host_in(std::string_view authority) {
  const bool in_brackets = authority.starts_with('[');
  return authority.substr(0, in_brackets ? authority.find(']') + 1 : authority.find(':'));
}

/// The URL and who is asked for it. libcurl shows and expects the name that the URL has, so another
/// server name takes its place there, while the host stays who is asked.
void set_target(Transfer& transfer, const Request& request) {
  const std::string_view authority = authority_in(request.url);
  const std::string_view host = host_in(authority);
  const std::string& server_name = request.tls.server_name();
  std::string url = request.url;
  if (!server_name.empty() && !host.empty()) {
    url.replace(static_cast<std::size_t>(host.data() - request.url.data()), host.size(),
                server_name);
    if (!has_header(request, "Host")) append(transfer.headers, fmt::format("Host: {}", authority));
  }
  set(transfer.easy.get(), CURLOPT_URL, url.c_str());
  if (!request.unix_socket.empty()) {
    set(transfer.easy.get(), CURLOPT_UNIX_SOCKET_PATH, request.unix_socket.c_str());
    return;
  }
  if (server_name.empty() && request.address.empty()) return;
  const bool is_ipv6 = request.address.find(':') != std::string::npos;
  const std::string asked = request.address.empty() ? std::string(host)
                            : is_ipv6               ? fmt::format("[{}]", request.address)
                                                    : request.address;
  append(transfer.connect_to,
         fmt::format("{}::{}:", server_name.empty() ? host : std::string_view(server_name), asked));
  set(transfer.easy.get(), CURLOPT_CONNECT_TO, transfer.connect_to.get());
}

void set_tls(CURL* easy, const v1::Tls& tls) {
  if (!tls.ca().empty()) {
    set(easy, CURLOPT_CAINFO, tls.ca().c_str());
    // Else the system's authorities, a folder of them, would be trusted as well.
    set(easy, CURLOPT_CAPATH, static_cast<const char*>(nullptr));
  }
  if (!tls.cert().empty()) {
    set(easy, CURLOPT_SSLCERT, tls.cert().c_str());
    set(easy, CURLOPT_SSLKEY, tls.key().c_str());
  }
  if (tls.insecure()) {
    set(easy, CURLOPT_SSL_VERIFYPEER, 0L);
    set(easy, CURLOPT_SSL_VERIFYHOST, 0L);
  }
}

void set_redirects(CURL* easy, const std::string& method) {
  set(easy, CURLOPT_FOLLOWLOCATION, 1L);
  set(easy, CURLOPT_MAXREDIRS, kMostRedirects);
  set(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  // A POST goes on as a GET, as browsers have it (RFC 9110, 15.4.2); any other method stays, and
  // its body with it, which libcurl would send on without.
  if (method != "POST") {
    set(easy, CURLOPT_POSTREDIR, static_cast<long>(CURL_REDIR_POST_301 | CURL_REDIR_POST_302));
  }
}

void set_up(Transfer& transfer, const Request& request) {
  transfer.easy.reset(curl().easy_init());
  CURL* easy = transfer.easy.get();
  if (easy == nullptr) throw std::bad_alloc();
  set(easy, CURLOPT_PRIVATE, static_cast<void*>(&transfer));
  set(easy, CURLOPT_ERRORBUFFER, transfer.detail.data());
  set_target(transfer, request);
  set_tls(easy, request.tls);
  set(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  set(easy, CURLOPT_PROXY,
      "");  // else http_proxy of the environment would be asked instead of the target
  set(easy, CURLOPT_NOSIGNAL, 1L);
  // Else giving up a name that nobody answers waits for the resolver's thread, and with it the
  // whole loop.
  set(easy, CURLOPT_QUICK_EXIT, 1L);
  set(easy, CURLOPT_DNS_CACHE_TIMEOUT, 0L);  // a name that fails shall be seen to fail
  set(easy, CURLOPT_USERAGENT, "squall");
  set(easy, CURLOPT_MAXFILESIZE_LARGE, static_cast<curl_off_t>(kMost));
  set(easy, CURLOPT_WRITEFUNCTION, &on_body);
  set(easy, CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
  set(easy, CURLOPT_HEADERFUNCTION, &on_header);
  set(easy, CURLOPT_HEADERDATA, static_cast<void*>(&transfer));

  const bool has_body = !request.body.empty() || request.method == "POST" ||
                        request.method == "PUT" || request.method == "PATCH";
  if (has_body) {
    set(easy, CURLOPT_POST, 1L);
    set(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    set(easy, CURLOPT_POSTFIELDS, request.body.data());
    append(transfer.headers, "Expect:");  // else a long body waits a second for "100 Continue"
    if (!has_header(request, "Content-Type")) append(transfer.headers, "Content-Type:");
  }
  if (request.method == "HEAD") {
    set(easy, CURLOPT_NOBODY, 1L);
  } else if (request.method != (has_body ? "POST" : "GET")) {
    set(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }
  if (request.follow) set_redirects(easy, request.method);
  // "Name;" is libcurl's way to send a header without a value.
  for (const auto& [name, value] : request.headers) {
    append(transfer.headers, value.empty() ? name + ";" : fmt::format("{}: {}", name, value));
  }
  if (transfer.headers) set(easy, CURLOPT_HTTPHEADER, transfer.headers.get());
}

/// A line break in a header would let a plan's parameter smuggle in another request.
bool is_clean(const Request& request) {
  constexpr std::string_view kBad("\r\n\0", 3);
  if (request.method.empty() || request.method.find_first_of(" \t\r\n") != std::string::npos)
    return false;
  for (const auto& [name, value] : request.headers) {
    if (name.empty() || name.find_first_of(": \t") != std::string::npos ||
        name.find_first_of(kBad) != std::string::npos ||
        value.find_first_of(kBad) != std::string::npos) {
      return false;
    }
  }
  return true;
}

}  // namespace

struct Fetcher::State {
  std::unique_ptr<CURLM, FreeMulti> multi;
  std::weak_ptr<Loop> loop;

  std::shared_ptr<Loop> loop_on(const asio::any_io_executor& executor) {
    auto current = loop.lock();
    if (!current) {
      current = std::make_shared<Loop>(multi.get(), executor);
      loop = current;
    }
    return current;
  }
};

Fetcher::Fetcher() : state_(std::make_unique<State>()) {
  if (!curl().error.empty()) return;
  state_->multi.reset(curl().multi_init());
  if (!state_->multi) throw std::bad_alloc();
  CURLM* multi = state_->multi.get();
  using OnSocket = int (*)(CURL*, curl_socket_t, int, void*, void*);
  using OnTimer = int (*)(CURLM*, long, void*);
  const OnSocket on_socket = [](CURL*, curl_socket_t socket, int what, void* user, void*) {
    if (const auto loop = static_cast<State*>(user)->loop.lock()) loop->want(socket, what);
    return 0;
  };
  const OnTimer on_timer = [](CURLM*, long ms, void* user) {
    if (const auto loop = static_cast<State*>(user)->loop.lock()) loop->call_after(ms);
    return 0;
  };
  curl().multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
  curl().multi_setopt(multi, CURLMOPT_SOCKETDATA, state_.get());
  curl().multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
  curl().multi_setopt(multi, CURLMOPT_TIMERDATA, state_.get());
  curl().multi_setopt(multi, CURLMOPT_MAXCONNECTS, 2L);
}

Fetcher::~Fetcher() = default;

asio::awaitable<Answer> Fetcher::fetch(Request request) {
  const auto executor = co_await asio::this_coro::executor;
  const MonotonicTime asked = monotonic_now();
  Answer answer;
  if (!curl().error.empty()) {
    answer.error = curl().error;
    co_return answer;
  }
  if (!is_clean(request)) {
    answer.error = "a method or header that HTTP cannot carry";
    co_return answer;
  }
  // Order of destruction: first the transfer leaves the multi handle, which still tells the loop of
  // its sockets.
  const std::shared_ptr<Loop> loop = state_->loop_on(executor);
  Transfer transfer(executor);
  set_up(transfer, request);
  transfer.wake.expires_at(asked + request.timeout);
  struct Membership {
    CURLM* multi;
    CURL* easy;
    ~Membership() { curl().multi_remove_handle(multi, easy); }
  };
  curl().multi_add_handle(state_->multi.get(), transfer.easy.get());
  const Membership membership{state_->multi.get(), transfer.easy.get()};

  const auto [woken] = co_await transfer.wake.async_wait(asio::as_tuple(asio::use_awaitable));

  if (!transfer.result) {
    answer.latency = monotonic_now() - asked;
    answer.error = woken ? kCancelled : timeout_words(request.timeout);
    co_return answer;
  }
  answer.latency = transfer.ended - asked;
  if (*transfer.result != CURLE_OK) {
    answer.error = error_words(transfer, *transfer.result, request);
    co_return answer;
  }
  long status = 0;
  curl().easy_getinfo(transfer.easy.get(), CURLINFO_RESPONSE_CODE, &status);
  answer.status = status;
  answer.body = std::move(transfer.body);
  answer.cut = transfer.cut;
  co_return answer;
}

}  // namespace squall::checks
