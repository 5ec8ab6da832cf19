#include "injector/daemon/resolver.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "squall/v1/options.pb.h"

namespace squall::daemon {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

void add_names(const Message& message, std::vector<std::string>& names) {
  const auto& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!field->is_repeated()) add_names(reflection.GetMessage(message, field), names);
      continue;
    }
    if (field->options().GetExtension(v1::rules).text() != v1::HOST_NAME) continue;
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      names.push_back(reflection.GetRepeatedString(message, field, i));
    }
  }
}

Status failed(const std::string& name, int code) {
  const bool unknown = code == EAI_NONAME;
  return error(unknown ? StatusCode::kNotFound : StatusCode::kUnavailable,
               "cannot resolve " + name + " on this node: " + ::gai_strerror(code));
}

StatusOr<Hosts> ask(const std::vector<std::string>& names) {
  Hosts hosts;
  for (const std::string& name : names) {
    addrinfo wanted{};
    wanted.ai_socktype = SOCK_STREAM;  // else each address comes once for every kind of socket
    addrinfo* first = nullptr;
    if (const int code = ::getaddrinfo(name.c_str(), nullptr, &wanted, &first); code != 0) {
      return failed(name, code);
    }
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(first, &::freeaddrinfo);
    std::set<std::string> addresses;
    for (const addrinfo* one = first; one != nullptr; one = one->ai_next) {
      if (one->ai_family == AF_INET) {
        const auto& four = *reinterpret_cast<const sockaddr_in*>(one->ai_addr);
        addresses.emplace(reinterpret_cast<const char*>(&four.sin_addr), sizeof(four.sin_addr));
      } else if (one->ai_family == AF_INET6) {
        const auto& six = *reinterpret_cast<const sockaddr_in6*>(one->ai_addr);
        addresses.emplace(reinterpret_cast<const char*>(&six.sin6_addr), sizeof(six.sin6_addr));
      }
    }
    v1::HostAddresses& host = *hosts.Add();
    host.set_host(name);
    for (const std::string& address : addresses) host.add_addresses(address);
  }
  return hosts;
}

}  // namespace

std::vector<std::string> host_names(const Message& message) {
  std::vector<std::string> names;
  add_names(message, names);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

struct Resolver::State {
  std::mutex mutex;
  Loop* loop = nullptr;  ///< Null once nobody wants to hear any more.
};

Resolver::Resolver(Loop& loop) : state_(std::make_shared<State>()) { state_->loop = &loop; }

Resolver::~Resolver() {
  const std::lock_guard lock(state_->mutex);
  state_->loop = nullptr;
}

void Resolver::resolve(const std::vector<std::string>& names, Answer answer) {
  if (names.empty()) return answer(Hosts());
  try {
    // A thread that nobody waits for: getaddrinfo cannot be cancelled.
    std::thread([state = state_, names, answer = std::move(answer)]() mutable {
      StatusOr<Hosts> hosts = ask(names);
      const std::lock_guard lock(state->mutex);
      if (state->loop == nullptr) return;
      state->loop->post([answer = std::move(answer), hosts = std::move(hosts)] { answer(hosts); });
    }).detach();
  } catch (const std::system_error& failure) {
    state_->loop->post([answer = std::move(answer), code = failure.code().value()] {
      answer(from_errno("cannot start a thread", code));
    });
  }
}

}  // namespace squall::daemon
