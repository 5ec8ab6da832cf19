#include "experiments/metrics/endpoint.h"

#include <fcntl.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>

#include "experiments/base/clock.h"
#include "experiments/base/file.h"

namespace squall::metrics {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using asio::local::stream_protocol;
using boost::system::error_code;

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);

/// Prometheus asks with one; a person beside it with another.
constexpr std::size_t kMostConnections = 16;
/// For the whole of a connection: handshake, question, answer.
constexpr Duration kPatience = std::chrono::seconds(5);
/// After a connection could not be taken, as for want of descriptors.
constexpr Duration kPause = std::chrono::seconds(1);
constexpr std::uint32_t kLargestHead = 8 * 1024;

constexpr std::string_view kUnix = "unix:";

/// An address as it was written.
struct Place {
  std::string path;  ///< Of a unix socket; empty: the endpoint.
  tcp::endpoint endpoint;
};

/// Errors: kInvalidArgument.
StatusOr<Place> parse(const std::string& text) {
  Place place;
  if (text.starts_with(kUnix)) {
    place.path = text.substr(kUnix.size());
    if (place.path.starts_with("/") && place.path.size() < 108) return place;
    return error(StatusCode::kInvalidArgument,
                 text + ": unix: and an absolute path of less than 108 bytes is needed");
  }
  const auto wrong = [&] {
    return error(StatusCode::kInvalidArgument,
                 text + ": write 127.0.0.1:9464, [::1]:9464, localhost:9464 or unix:/path");
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return wrong();
  std::string host = text.substr(0, colon);
  if (host.starts_with("[") && host.ends_with("]")) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    return wrong();
  }
  if (host == "localhost") host = "127.0.0.1";
  error_code failed;
  const auto address = asio::ip::make_address(host, failed);
  std::uint16_t port = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, bad] = std::from_chars(text.data() + colon + 1, end, port);
  if (failed || bad != std::errc() || stop != end) return wrong();
  place.endpoint = {address, port};
  return place;
}

bool is_plain(const Place& place) {
  return !place.path.empty() || place.endpoint.address().is_loopback();
}

Status needs_tls(const std::string& address) {
  return error(StatusCode::kInvalidArgument,
               address +
                   ": only loopback and unix sockets are served in plain text; for others name the "
                   "folder with ca.pem, cert.pem and key.pem by --tls-dir");
}

/// Errors: of reading the files; kInvalidArgument where they do not fit.
StatusOr<asio::ssl::context> make_context(const std::string& folder) {
  asio::ssl::context context(asio::ssl::context::tls_server);
  context.set_options(asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1);
  const StatusOr<std::string> ca = read_pem(folder + "/ca.pem");
  if (!ca.ok()) return ca.status();
  const StatusOr<std::string> cert = read_pem(folder + "/cert.pem");
  if (!cert.ok()) return cert.status();
  const StatusOr<std::string> key = read_pem(folder + "/key.pem");
  if (!key.ok()) return key.status();
  error_code failed;
  context.set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert);
  context.add_certificate_authority(asio::buffer(*ca), failed);
  if (!failed) context.use_certificate_chain(asio::buffer(*cert), failed);
  if (!failed) context.use_private_key(asio::buffer(*key), asio::ssl::context::pem, failed);
  if (failed) {
    return error(StatusCode::kInvalidArgument, folder +
                                                   ": the certificate and its key cannot be "
                                                   "used: " +
                                                   failed.message());
  }
  return context;
}

/// Asio leaves it to whoever starts other programs, which here are checks, holders and scripts.
template <typename Socket>
void keep_from_children(Socket& socket) {
  ::fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
}

http::response<http::string_body> answer_to(const http::request<http::empty_body>& request,
                                            const prometheus::Registry& registry) {
  const auto say = [](http::status status, const char* type, std::string body) {
    http::response<http::string_body> answer(status, 11);
    answer.set(http::field::content_type, type);
    answer.body() = std::move(body);
    return answer;
  };
  const auto path = request.target().substr(0, request.target().find('?'));
  if (path != "/metrics") {
    return say(http::status::not_found, "text/plain", "only /metrics is here\n");
  }
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    auto answer = say(http::status::method_not_allowed, "text/plain", "only GET\n");
    answer.set(http::field::allow, "GET, HEAD");
    return answer;
  }
  return say(http::status::ok, "text/plain; version=0.0.4; charset=utf-8",
             prometheus::TextSerializer().Serialize(registry.Collect()));
}

/// One question and its answer, over what is connected by now.
template <typename Stream>
asio::awaitable<void> answer_one(Stream& stream, const prometheus::Registry& registry) {
  beast::flat_buffer buffer;
  http::request_parser<http::empty_body> parser;
  parser.header_limit(kLargestHead);
  parser.body_limit(std::uint64_t{0});
  const auto [unread, read] = co_await http::async_read(stream, buffer, parser, kToken);
  http::response<http::string_body> answer;
  if (unread == http::error::header_limit || unread == http::error::buffer_overflow) {
    answer = {http::status::request_header_fields_too_large, 11};
  } else if (unread == http::error::body_limit) {
    answer = {http::status::payload_too_large, 11};
  } else if (unread.category() == http::make_error_code(http::error::bad_method).category() &&
             unread != http::error::end_of_stream && unread != http::error::partial_message) {
    answer = {http::status::bad_request, 11};
  } else if (unread) {
    co_return;
  } else {
    answer = answer_to(parser.get(), registry);
  }
  const bool head = !unread && parser.get().method() == http::verb::head;
  answer.keep_alive(false);
  answer.prepare_payload();
  if (head) answer.body().clear();  // and the length of what GET would have got
  co_await http::async_write(stream, answer, kToken);
}

}  // namespace

struct Endpoint::State {
  explicit State(std::shared_ptr<const prometheus::Registry> numbers)
      : registry(std::move(numbers)) {}

  template <typename Acceptor>
  asio::awaitable<void> accept(Acceptor& acceptor) {
    for (;;) {
      auto [failed, socket] = co_await acceptor.async_accept(kToken);
      if (failed == asio::error::operation_aborted) co_return;
      if (failed) {
        asio::steady_timer pause(loop, kPause);
        co_await pause.async_wait(kToken);
        continue;
      }
      if (connections == kMostConnections) continue;  // closed again
      keep_from_children(socket);
      ++connections;
      // What throws, as for want of memory, ends with its connection.
      asio::co_spawn(loop, serve(std::move(socket)),
                     [this](const std::exception_ptr&) { --connections; });
    }
  }

  template <typename Socket>
  asio::awaitable<void> serve(Socket socket) {
    using Protocol = typename Socket::protocol_type;
    beast::basic_stream<Protocol> stream(std::move(socket));
    stream.expires_after(kPatience);
    if constexpr (std::is_same_v<Protocol, tcp>) {
      if (context) {
        beast::ssl_stream<beast::basic_stream<Protocol>> secret(std::move(stream), *context);
        const auto [refused] =
            co_await secret.async_handshake(asio::ssl::stream_base::server, kToken);
        if (refused) co_return;
        co_await answer_one(secret, *registry);
        co_await secret.async_shutdown(kToken);
        co_return;
      }
    }
    co_await answer_one(stream, *registry);
    error_code ignored;
    stream.socket().shutdown(Protocol::socket::shutdown_send, ignored);
  }

  Status listen(const Place& place) {
    error_code failed;
    if (!place.path.empty()) return listen_on_path(place.path);
    tcp::acceptor& acceptor = by_tcp.emplace(loop);
    acceptor.open(place.endpoint.protocol(), failed);
    if (!failed) keep_from_children(acceptor);
    if (!failed) acceptor.set_option(asio::socket_base::reuse_address(true), failed);
    if (!failed) acceptor.bind(place.endpoint, failed);
    if (!failed) acceptor.listen(asio::socket_base::max_listen_connections, failed);
    if (failed) return cannot_listen(failed);
    const auto port = acceptor.local_endpoint().port();
    address = address.substr(0, address.rfind(':') + 1) + std::to_string(port);
    asio::co_spawn(loop, accept(acceptor), [](const std::exception_ptr&) {});
    return ok();
  }

  Status listen_on_path(const std::string& path) {
    error_code failed;
    stream_protocol::socket asked(loop);
    asked.connect(stream_protocol::endpoint(path), failed);
    if (!failed) return cannot_listen(asio::error::address_in_use);
    // Of one that died: nobody answers there. Any other file stays what it is.
    std::error_code unknown;
    if (std::filesystem::is_socket(path, unknown)) std::filesystem::remove(path, unknown);
    stream_protocol::acceptor& acceptor = by_path.emplace(loop);
    acceptor.open(stream_protocol(), failed);
    if (!failed) keep_from_children(acceptor);
    if (!failed) acceptor.bind(stream_protocol::endpoint(path), failed);
    if (failed) return cannot_listen(failed);
    made = path;
    acceptor.listen(asio::socket_base::max_listen_connections, failed);
    if (failed) return cannot_listen(failed);
    asio::co_spawn(loop, accept(acceptor), [](const std::exception_ptr&) {});
    return ok();
  }

  Status cannot_listen(const error_code& why) const {
    return error(StatusCode::kFailedPrecondition,
                 "cannot listen on " + address + ": " + why.message());
  }

  std::shared_ptr<const prometheus::Registry> registry;
  std::string address;
  std::string made;  ///< The unix socket that is ours to remove.
  std::optional<asio::ssl::context> context;
  std::size_t connections = 0;
  asio::io_context loop{1};
  std::optional<tcp::acceptor> by_tcp;
  std::optional<stream_protocol::acceptor> by_path;
  std::thread thread;
};

Status check_address(const std::string& address, const std::string& tls_dir) {
  const StatusOr<Place> place = parse(address);
  if (!place.ok()) return place.status();
  return is_plain(*place) || !tls_dir.empty() ? ok() : needs_tls(address);
}

StatusOr<std::unique_ptr<Endpoint>> Endpoint::start(
    const std::string& address, const std::string& tls_dir,
    std::shared_ptr<const prometheus::Registry> registry) {
  if (Status fits = check_address(address, tls_dir); !fits.ok()) return fits;
  const StatusOr<Place> place = parse(address);
  auto state = std::make_unique<State>(std::move(registry));
  state->address = address;
  if (!is_plain(*place)) {
    auto context = make_context(tls_dir);
    if (!context.ok()) return context.status();
    state->context = *std::move(context);
  }
  if (Status listening = state->listen(*place); !listening.ok()) return listening;
  // The program's signals are for the program's own threads.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  state->thread = std::thread([loop = &state->loop] { loop->run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return std::unique_ptr<Endpoint>(new Endpoint(std::move(state)));
}

Endpoint::Endpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}

Endpoint::~Endpoint() {
  state_->loop.stop();
  if (state_->thread.joinable()) state_->thread.join();
  std::error_code ignored;
  if (!state_->made.empty()) std::filesystem::remove(state_->made, ignored);
}

const std::string& Endpoint::address() const { return state_->address; }

}  // namespace squall::metrics
