#include "injector/network/classifier.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "experiments/base/fd.h"
#include "injector/network/cgroup_programs.h"
#include "injector/network/emulation.h"
#include "injector/network/match.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wpedantic"
#include "classifier.skel.h"
#pragma GCC diagnostic pop

namespace squall::network {
namespace {

void add_port(__u64* set, std::uint16_t port) {
  std::atomic_ref<__u64>(set[port / 64])
      .fetch_or(__u64{1} << (port % 64), std::memory_order_relaxed);
}

template <typename Key>
Key to_key(const v1::Cidr& cidr) {
  Key key{};
  key.prefix = cidr.prefix();
  std::memcpy(key.address, cidr.address().data(),
              std::min(sizeof(key.address), cidr.address().size()));
  return key;
}

template <typename Key>
Status read_cidrs(int map, v1::Match& match) {
  Key key{};
  bool first = true;
  Key next{};
  while (bpf_map_get_next_key(map, first ? nullptr : &key, &next) == 0) {
    key = next;
    first = false;
    __u8 tells = 0;
    if (bpf_map_lookup_elem(map, &key, &tells) != 0 || (tells & SQUALL_IN) == 0) continue;
    v1::Cidr& cidr = *match.add_cidrs();
    cidr.set_prefix(key.prefix);
    cidr.set_address(key.address, sizeof(key.address));
  }
  if (errno == ENOENT) return ok();
  return from_errno("cannot read the addresses of another fault", errno);
}

void read_ports(const squall_match& from, v1::Match& match) {
  const auto has = [&](unsigned port) { return ((from.ports[port / 64] >> (port % 64)) & 1) != 0; };
  for (unsigned port = 0; port <= 65535; ++port) {
    if (!has(port)) continue;
    v1::PortRange& range = *match.add_ports();
    range.set_first(port);
    while (port < 65535 && has(port + 1)) ++port;
    range.set_last(port);
  }
}

void read_protocols(const squall_match& from, v1::Match& match) {
  for (unsigned number = 0; number < SQUALL_PROTOCOL_WORDS * 64; ++number) {
    if (((from.protocols[number / 64] >> (number % 64)) & 1) == 0) continue;
    match.add_protocols()->set_number(number);
  }
}

template <typename Key>
std::string to_bytes(const v1::Cidr& cidr) {
  const Key key = to_key<Key>(cidr);
  return {reinterpret_cast<const char*>(&key), sizeof(key)};
}

std::string to_bytes(const v1::Cidr& cidr) {
  return cidr.address().size() == 4 ? to_bytes<squall_cidr4>(cidr) : to_bytes<squall_cidr6>(cidr);
}

bool contains(const v1::Cidr& outer, const v1::Cidr& inner);

/// What the tries are to hold: an address is found by its longest prefix alone, so that each prefix
/// bears what those around it say.
std::map<std::string, std::uint8_t> entries_of(const Aim& aim) {
  struct Told {
    v1::Cidr cidr;
    std::uint8_t tells;
  };
  std::vector<Told> all;
  for (const v1::Cidr& cidr : aim.match.cidrs()) all.push_back({cidr, SQUALL_IN});
  for (const v1::Cidr& cidr : aim.except.cidrs()) all.push_back({cidr, SQUALL_OUT});
  // Each right behind those that contain it.
  std::sort(all.begin(), all.end(), [](const Told& a, const Told& b) {
    if (a.cidr.address().size() != b.cidr.address().size()) {
      return a.cidr.address().size() < b.cidr.address().size();
    }
    const int order = a.cidr.address().compare(b.cidr.address());
    return order != 0 ? order < 0 : a.cidr.prefix() < b.cidr.prefix();
  });
  std::map<std::string, std::uint8_t> entries;
  std::vector<Told> around;
  for (Told& told : all) {
    while (!around.empty() && !contains(around.back().cidr, told.cidr)) around.pop_back();
    if (!around.empty()) told.tells |= around.back().tells;
    entries[to_bytes(told.cidr)] |= told.tells;
    around.push_back(std::move(told));
  }
  return entries;
}

squall_connection to_key(const Connection& connection) {
  squall_connection key{};
  std::memcpy(key.source, connection.source.address.data(), sizeof(key.source));
  std::memcpy(key.destination, connection.destination.address.data(), sizeof(key.destination));
  key.source_port = htons(connection.source.port);
  key.destination_port = htons(connection.destination.port);
  return key;
}

bool share_address(const v1::Cidr& a, const v1::Cidr& b) {
  if (a.address().size() != b.address().size()) return false;
  const unsigned bits = std::min(a.prefix(), b.prefix());
  for (unsigned bit = 0; bit < bits; ++bit) {
    const unsigned differing =
        static_cast<unsigned char>(a.address()[bit / 8] ^ b.address()[bit / 8]);
    if (((differing >> (7 - bit % 8)) & 1u) != 0) return false;
  }
  return true;
}

bool contains(const v1::Cidr& outer, const v1::Cidr& inner) {
  return outer.prefix() <= inner.prefix() && share_address(outer, inner);
}

__u32 share_of(double percent) {
  constexpr double kWhole = 4294967295.0;
  return static_cast<__u32>(std::llround(std::clamp(percent, 0.0, 100.0) / 100 * kWhole));
}

int silent(libbpf_print_level /*level*/, const char* /*format*/, va_list /*arguments*/) {
  return 0;
}

}  // namespace

StatusOr<std::unique_ptr<Classifier>> Classifier::load(const std::set<Program>& programs) {
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  // What matters comes back as a code; the rest would go to stderr, unasked.
  libbpf_set_print(silent);
  struct classifier* object = classifier__open();
  if (object == nullptr) return from_errno("cannot load the classifier", errno);
  std::unique_ptr<Classifier> loaded(new Classifier(object));
  const std::pair<Program, bpf_program*> all[] = {{Program::kEgress, object->progs.egress},
                                                  {Program::kIngress, object->progs.ingress},
                                                  {Program::kReenter, object->progs.reenter},
                                                  {Program::kSocket, object->progs.squall_socket}};
  for (const auto& [program, own] : all) {
    const bool is_wanted =
        programs.empty() ? program != Program::kSocket : programs.contains(program);
    bpf_program__set_autoload(own, is_wanted);
  }
  if (const int failed = classifier__load(object); failed != 0) {
    return from_errno("cannot load the classifier", -failed);
  }
  return loaded;
}

Classifier::~Classifier() {
  if (new_sockets_ != nullptr) bpf_link__destroy(new_sockets_);
  classifier__destroy(object_);
}

Status Classifier::set_aim(const Aim& aim, std::span<const std::uint16_t> spared_tcp_ports) {
  if (Status set = set_addresses(aim); !set.ok()) return set;
  squall_match& to = object_->bss->match;
  const auto set_ports = [](const v1::Match& match, __u64* set) {
    for (const v1::PortRange& range : match.ports()) {
      for (unsigned port = range.first(); port <= std::min(range.last(), 65535u); ++port) {
        add_port(set, static_cast<std::uint16_t>(port));
      }
    }
    return !match.ports().empty();
  };
  const auto set_protocols = [](const v1::Match& match, __u64* set) {
    for (const v1::Protocol& protocol : match.protocols()) {
      set[(protocol.number() / 64) % SQUALL_PROTOCOL_WORDS] |= __u64{1} << (protocol.number() % 64);
    }
    return !match.protocols().empty();
  };
  const auto asks_for_addresses = [](const v1::Match& match) {
    return !match.cidrs().empty() || !match.hosts().empty();
  };
  __u32 flags = 0;
  const auto ask = [&flags](bool asked, __u32 flag) { flags |= asked ? flag : 0; };
  ask(asks_for_addresses(aim.match), SQUALL_MATCH_CIDRS);
  ask(set_ports(aim.match, to.ports), SQUALL_MATCH_PORTS);
  ask(set_protocols(aim.match, to.protocols), SQUALL_MATCH_PROTOCOLS);
  ask(asks_for_addresses(aim.except), SQUALL_EXCEPT | SQUALL_EXCEPT_CIDRS);
  ask(set_ports(aim.except, to.except_ports), SQUALL_EXCEPT | SQUALL_EXCEPT_PORTS);
  ask(set_protocols(aim.except, to.except_protocols), SQUALL_EXCEPT | SQUALL_EXCEPT_PROTOCOLS);
  ask(aim.cgroup.id != 0, SQUALL_MATCH_CGROUP);
  ask(aim.processes, SQUALL_MATCH_PROCESSES);
  ask(aim.ethernet, SQUALL_ETHERNET);
  ask(aim.loses, SQUALL_LOSE);
  if (aim.loses && aim.losses) {
    ask(true, SQUALL_BY_CHANCE);
    ask(aim.losses->ecn, SQUALL_ECN);
    set_losses(*aim.losses);
    squall_chance chance{};
    chance.random = loss_sequence(*aim.losses);
    const __u32 key = 0;
    if (bpf_map_update_elem(bpf_map__fd(object_->maps.chance), &key, &chance, BPF_ANY) != 0) {
      return from_errno("cannot tell the classifier where to begin", errno);
    }
  }
  // A share of all is no share.
  ask(aim.connections > 0 && aim.connections < 100, SQUALL_SHARE_OF_CONNECTIONS);
  ask(aim.packets > 0 && aim.packets < 100, SQUALL_SHARE_OF_PACKETS);
  for (const std::uint16_t port : spared_tcp_ports) add_port(to.spared_tcp_ports, port);
  to.share = share_of(aim.connections > 0 ? aim.connections : aim.packets);
  to.share_seed = aim.seed;
  to.cgroup = aim.cgroup.id;
  to.cgroup_level = aim.cgroup.level;
  to.flags = flags;
  return ok();
}

Status Classifier::set_addresses(const Aim& aim) {
  std::map<std::string, std::uint8_t> entries = entries_of(aim);
  const auto trie_of = [this](const std::string& key) {
    return key.size() == sizeof(squall_cidr4) ? bpf_map__fd(object_->maps.cidrs4)
                                              : bpf_map__fd(object_->maps.cidrs6);
  };
  for (const auto& [key, tells] : entries) {
    const auto held = addresses_.find(key);
    if (held != addresses_.end() && held->second == tells) continue;
    if (bpf_map_update_elem(trie_of(key), key.data(), &tells, BPF_ANY) == 0) continue;
    if (errno == ENOSPC) {
      return error(StatusCode::kInvalidArgument,
                   "more than " + std::to_string(SQUALL_MAX_CIDRS) + " cidrs in one fault");
    }
    return from_errno("cannot tell the classifier a cidr", errno);
  }
  for (const auto& [key, tells] : addresses_) {
    if (!entries.contains(key)) bpf_map_delete_elem(trie_of(key), key.data());
  }
  addresses_ = std::move(entries);
  return ok();
}

void Classifier::set_losses(const Effect& effect) {
  const squall_loss from = loss_of(effect);
  squall_loss& to = object_->bss->match.loss;
  for (__u32 squall_loss::*field :
       {&squall_loss::model, &squall_loss::chance, &squall_loss::correlation, &squall_loss::a1,
        &squall_loss::a2, &squall_loss::a3, &squall_loss::a4, &squall_loss::a5}) {
    std::atomic_ref<__u32>(to.*field).store(from.*field, std::memory_order_relaxed);
  }
}

void Classifier::spare(std::uint16_t port) { add_port(object_->bss->match.spared_tcp_ports, port); }

Status Classifier::spare_connections(const std::set<Connection>& connections) {
  const int map = bpf_map__fd(object_->maps.spared_connections);
  for (const Connection& gone : spared_) {
    if (connections.contains(gone)) continue;
    const squall_connection key = to_key(gone);
    bpf_map_delete_elem(map, &key);
  }
  Status status;
  const __u8 present = 1;
  for (const Connection& connection : connections) {
    if (spared_.contains(connection)) continue;
    const squall_connection key = to_key(connection);
    if (bpf_map_update_elem(map, &key, &present, BPF_ANY) != 0 && status.ok()) {
      status = error(StatusCode::kResourceExhausted,
                     "more connections to spare than the classifier holds");
    }
  }
  spared_ = connections;
  return status;
}

Status Classifier::mark_new_sockets(int cgroup, std::string_view tag) {
  const StatusOr<std::uint64_t> netns = own_netns_cookie();
  if (!netns.ok()) return netns.status();
  object_->bss->match.netns = *netns;
  tag.copy(object_->bss->match.tag, SQUALL_MATCH_TAG - 1);
  new_sockets_ = bpf_program__attach_cgroup(object_->progs.squall_socket, cgroup);
  if (new_sockets_ != nullptr) return ok();
  if (errno == EPERM) {
    return error(
        StatusCode::kFailedPrecondition,
        "the root control group has a program of its owner that lets no other be beside it");
  }
  return from_errno("cannot attach to the root control group", errno);
}

bool Classifier::marks_new_sockets() const {
  bpf_link_info about{};
  return new_sockets_ != nullptr && read_info(bpf_link__fd(new_sockets_), about) &&
         about.cgroup.cgroup_id != 0;
}

Status Classifier::mean_processes(const std::set<std::uint32_t>& processes) {
  const int map = bpf_map__fd(object_->maps.processes);
  // First: the number of one that has ended may soon be another's.
  for (const std::uint32_t gone : processes_) {
    if (!processes.contains(gone)) bpf_map_delete_elem(map, &gone);
  }
  processes_.clear();
  Status status;
  const __u8 present = 1;
  for (const std::uint32_t process : processes) {
    if (bpf_map_update_elem(map, &process, &present, BPF_ANY) == 0) {
      processes_.insert(process);
    } else {
      status =
          error(StatusCode::kResourceExhausted,
                "more than " + std::to_string(SQUALL_MAX_PROCESSES) + " processes in one fault");
    }
  }
  return status;
}

Status Classifier::mark_socket(int socket) {
  const __u8 present = 1;
  if (bpf_map_update_elem(bpf_map__fd(object_->maps.of_processes), &socket, &present, BPF_ANY) == 0)
    return ok();
  return from_errno("cannot mark a socket", errno);
}

void Classifier::set_reenter(std::uint32_t mark, bool for_this_host) {
  object_->bss->match.reenter_mark = mark;
  object_->bss->match.reenter_host = for_this_host ? 1 : 0;
}

void Classifier::set_deadline(MonotonicTime deadline) {
  std::atomic_ref<__u64>(object_->bss->match.deadline_ns)
      .store(static_cast<__u64>(std::max<std::int64_t>(0, to_ns(deadline))),
             std::memory_order_release);
}

void Classifier::end() { set_deadline(MonotonicTime(Duration(1))); }

int Classifier::program_fd(Program program) const {
  switch (program) {
    case Program::kEgress:
      return bpf_program__fd(object_->progs.egress);
    case Program::kIngress:
      return bpf_program__fd(object_->progs.ingress);
    case Program::kReenter:
      return bpf_program__fd(object_->progs.reenter);
    case Program::kSocket:
      return bpf_program__fd(object_->progs.squall_socket);
  }
  return -1;
}

std::uint32_t Classifier::program_id(Program program) const {
  bpf_prog_info about{};
  __u32 length = sizeof(about);
  return bpf_obj_get_info_by_fd(program_fd(program), &about, &length) == 0 ? about.id : 0;
}

StatusOr<Losses> Classifier::losses() const {
  const int processors = libbpf_num_possible_cpus();
  if (processors <= 0) return from_errno("cannot count the processors", -processors);
  std::vector<squall_count> counts(static_cast<std::size_t>(processors));
  const __u32 key = 0;
  if (bpf_map_lookup_elem(bpf_map__fd(object_->maps.counts), &key, counts.data()) != 0) {
    return from_errno("cannot read what was lost", errno);
  }
  Losses sum;
  for (const squall_count& count : counts) {
    sum.packets += count.packets;
    sum.bytes += count.bytes;
    sum.lost += count.lost;
    sum.marked += count.marked;
  }
  return sum;
}

std::uint32_t relay_mark(std::string_view fault_id, bool ingress) {
  std::uint32_t hash = 2166136261u;  // FNV-1a
  for (const char c : fault_id) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return SQUALL_MARK | (ingress ? SQUALL_MARK_INGRESS : 0) |
         ((hash ^ (hash >> 15)) & SQUALL_MARK_FAULT_MASK);
}

StatusOr<Standing> read_standing(std::uint32_t program_id) {
  const Fd program(bpf_prog_get_fd_by_id(program_id));
  if (!program.is_open()) return from_errno("cannot open the program of a filter", errno);
  std::array<__u32, 8> map_ids{};
  bpf_prog_info info{};
  info.nr_map_ids = static_cast<__u32>(map_ids.size());
  info.map_ids = reinterpret_cast<__u64>(map_ids.data());
  __u32 length = sizeof(info);
  if (bpf_obj_get_info_by_fd(program.number(), &info, &length) != 0) {
    return from_errno("cannot read the program of a filter", errno);
  }
  Standing standing;
  v1::Match& match = standing.aim.match;
  bool found = false;
  for (std::size_t i = 0; i < std::min<std::size_t>(info.nr_map_ids, map_ids.size()); ++i) {
    const Fd map(bpf_map_get_fd_by_id(map_ids[i]));
    bpf_map_info about{};
    length = sizeof(about);
    if (!map.is_open() || bpf_obj_get_info_by_fd(map.number(), &about, &length) != 0) {
      return from_errno("cannot read the map of a filter", errno);
    }
    if (about.type == BPF_MAP_TYPE_LPM_TRIE) {
      const Status read = about.key_size == sizeof(squall_cidr4)
                              ? read_cidrs<squall_cidr4>(map.number(), match)
                              : read_cidrs<squall_cidr6>(map.number(), match);
      if (!read.ok()) return read;
    } else if (about.type == BPF_MAP_TYPE_ARRAY && about.value_size == sizeof(squall_match)) {
      squall_match value{};
      const __u32 key = 0;
      if (bpf_map_lookup_elem(map.number(), &key, &value) != 0) {
        return from_errno("cannot read the match of a filter", errno);
      }
      read_ports(value, match);
      read_protocols(value, match);
      standing.aim.cgroup.id = value.cgroup;
      standing.aim.cgroup.level = value.cgroup_level;
      standing.deadline = from_ns(static_cast<std::int64_t>(value.deadline_ns));
      found = true;
    }
  }
  if (!found) return error(StatusCode::kNotFound, "not a program of ours");
  return standing;
}

bool may_overlap(const Aim& a, const Aim& b) {
  const auto any = [](const auto& left, const auto& right, auto share) {
    if (left.empty() || right.empty()) return true;
    for (const auto& one : left) {
      for (const auto& other : right) {
        if (share(one, other)) return true;
      }
    }
    return false;
  };
  // Two groups of one level have no socket in common; of two levels one may hold the other.
  if (a.cgroup.id != 0 && b.cgroup.id != 0 && a.cgroup.level == b.cgroup.level &&
      a.cgroup.id != b.cgroup.id) {
    return false;
  }
  return any(a.match.cidrs(), b.match.cidrs(), share_address) &&
         any(a.match.ports(), b.match.ports(),
             [](const v1::PortRange& one, const v1::PortRange& other) {
               return one.first() <= other.last() && other.first() <= one.last();
             }) &&
         any(a.match.protocols(), b.match.protocols(),
             [](const v1::Protocol& one, const v1::Protocol& other) {
               return one.number() == other.number();
             });
}

}  // namespace squall::network
