#include "injector/network/spared.h"

#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace squall::network {
namespace {

using Inode = std::uint32_t;
constexpr std::string_view kSocket = "socket:[";

/// Calls back for every TCP socket in one of these states, of this namespace.
void for_each_socket(std::uint32_t states, const auto& visit) {
  const std::unique_ptr<nl_sock, decltype(&nl_socket_free)> socket(nl_socket_alloc(),
                                                                   &nl_socket_free);
  if (!socket || nl_connect(socket.get(), NETLINK_SOCK_DIAG) < 0) return;
  for (const int family : {AF_INET, AF_INET6}) {
    inet_diag_req_v2 request{};
    request.sdiag_family = static_cast<std::uint8_t>(family);
    request.sdiag_protocol = IPPROTO_TCP;
    request.idiag_states = states;
    if (nl_send_simple(socket.get(), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, &request,
                       sizeof(request)) < 0) {
      continue;
    }
    for (bool done = false; !done;) {
      sockaddr_nl from{};
      unsigned char* raw = nullptr;
      int length = nl_recv(socket.get(), &from, &raw, nullptr);
      const std::unique_ptr<unsigned char, decltype(&std::free)> owner(raw, &std::free);
      if (length <= 0) break;
      for (const nlmsghdr* header = reinterpret_cast<const nlmsghdr*>(raw);
           nlmsg_ok(header, length); header = nlmsg_next(const_cast<nlmsghdr*>(header), &length)) {
        if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR) {
          done = true;
        } else if (header->nlmsg_len >= NLMSG_HDRLEN + sizeof(inet_diag_msg)) {
          visit(*static_cast<const inet_diag_msg*>(nlmsg_data(header)));
        }
      }
    }
  }
}

/// The port of each listening TCP socket, by the socket's inode.
std::map<Inode, std::uint16_t> listening() {
  std::map<Inode, std::uint16_t> ports;
  for_each_socket(1u << TCP_LISTEN, [&](const inet_diag_msg& found) {
    ports[found.idiag_inode] = ntohs(found.id.idiag_sport);
  });
  return ports;
}

Connection::End end_of(std::uint8_t family, const __be32* address, __be16 port) {
  Connection::End end;
  end.port = ntohs(port);
  if (family == AF_INET6) {
    std::memcpy(end.address.data(), address, end.address.size());
  } else {
    end.address[10] = end.address[11] = 0xff;
    std::memcpy(end.address.data() + 12, address, 4);
  }
  return end;
}

/// Processes end while they are looked at; what is gone is no entry.
void for_each_entry(const std::filesystem::path& folder, const auto& visit) {
  std::error_code gone;
  std::filesystem::directory_iterator entry(folder, gone);
  for (; !gone && entry != std::filesystem::directory_iterator(); entry.increment(gone)) {
    visit(entry->path());
  }
}

/// The sockets of every process whose name is among these.
std::set<Inode> sockets_of(std::initializer_list<std::string_view> names) {
  std::set<Inode> sockets;
  for_each_entry("/proc", [&](const std::filesystem::path& process) {
    const std::string number = process.filename();
    if (number.find_first_not_of("0123456789") != std::string::npos) return;
    std::ifstream file(process / "comm");
    std::string name;
    if (!std::getline(file, name) || std::find(names.begin(), names.end(), name) == names.end())
      return;
    for_each_entry(process / "fd", [&](const std::filesystem::path& open) {
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(open, gone).string();
      if (!target.starts_with(kSocket)) return;
      sockets.insert(
          static_cast<Inode>(std::strtoul(target.c_str() + kSocket.size(), nullptr, 10)));
    });
  });
  return sockets;
}

}  // namespace

std::set<Connection> ssh_connections() {
  std::set<Connection> connections;
  // Since OpenSSH 9.8 a session has a program of its own.
  const std::set<Inode> sockets = sockets_of({"ssh", "sshd", "sshd-session"});
  if (sockets.empty()) return connections;
  for_each_socket(1u << TCP_ESTABLISHED, [&](const inet_diag_msg& found) {
    if (!sockets.contains(found.idiag_inode)) return;
    const Connection::End here =
        end_of(found.idiag_family, found.id.idiag_src, found.id.idiag_sport);
    const Connection::End there =
        end_of(found.idiag_family, found.id.idiag_dst, found.id.idiag_dport);
    connections.insert({here, there});
    connections.insert({there, here});
  });
  return connections;
}

const std::vector<std::uint16_t>& SshdPorts::read() {
  is_read_ = true;
  std::map<Inode, std::uint16_t> sockets = listening();
  if (sockets == listening_) return ports_;
  std::vector<std::uint16_t> ports;
  for (const Inode socket : sockets_of({"sshd"})) {
    if (const auto found = sockets.find(socket); found != sockets.end())
      ports.push_back(found->second);
  }
  std::sort(ports.begin(), ports.end());
  ports.erase(std::unique(ports.begin(), ports.end()), ports.end());
  listening_ = std::move(sockets);
  return ports_ = std::move(ports);
}

}  // namespace squall::network
