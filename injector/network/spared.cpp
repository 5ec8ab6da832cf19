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
#include <filesystem>
#include <fstream>
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

/// The port of each listening TCP socket, by the socket's inode.
std::map<Inode, std::uint16_t> listening() {
  std::map<Inode, std::uint16_t> ports;
  const std::unique_ptr<nl_sock, decltype(&nl_socket_free)> socket(nl_socket_alloc(),
                                                                   &nl_socket_free);
  if (!socket || nl_connect(socket.get(), NETLINK_SOCK_DIAG) < 0) return ports;
  for (const int family : {AF_INET, AF_INET6}) {
    inet_diag_req_v2 request{};
    request.sdiag_family = static_cast<std::uint8_t>(family);
    request.sdiag_protocol = IPPROTO_TCP;
    request.idiag_states = 1u << TCP_LISTEN;
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
          const inet_diag_msg& found = *static_cast<const inet_diag_msg*>(nlmsg_data(header));
          ports[found.idiag_inode] = ntohs(found.id.idiag_sport);
        }
      }
    }
  }
  return ports;
}

/// Processes end while they are looked at; what is gone is no entry.
void for_each_entry(const std::filesystem::path& folder, const auto& visit) {
  std::error_code gone;
  std::filesystem::directory_iterator entry(folder, gone);
  for (; !gone && entry != std::filesystem::directory_iterator(); entry.increment(gone)) {
    visit(entry->path());
  }
}

bool is_sshd(const std::filesystem::path& process) {
  std::ifstream file(process / "comm");
  std::string name;
  return std::getline(file, name) && name == "sshd";
}

}  // namespace

const std::vector<std::uint16_t>& SshdPorts::read() {
  std::map<Inode, std::uint16_t> sockets = listening();
  if (sockets == listening_) return ports_;
  std::vector<std::uint16_t> ports;
  for_each_entry("/proc", [&](const std::filesystem::path& process) {
    const std::string name = process.filename();
    if (name.find_first_not_of("0123456789") != std::string::npos || !is_sshd(process)) return;
    for_each_entry(process / "fd", [&](const std::filesystem::path& file) {
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(file, gone).string();
      if (!target.starts_with(kSocket)) return;
      const auto socket = sockets.find(
          static_cast<Inode>(std::strtoul(target.c_str() + kSocket.size(), nullptr, 10)));
      if (socket != sockets.end()) ports.push_back(socket->second);
    });
  });
  std::sort(ports.begin(), ports.end());
  ports.erase(std::unique(ports.begin(), ports.end()), ports.end());
  listening_ = std::move(sockets);
  return ports_ = std::move(ports);
}

}  // namespace squall::network
