#include "injector/network/relay.h"

#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <functional>
#include <optional>
#include <semaphore>
#include <span>
#include <utility>

#include "experiments/base/failpoint.h"
#include "injector/network/emulation.h"
#include "injector/network/frame.h"

// Of Linux 6.2; Debian 12's headers are of 6.1.
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

namespace squall::network {
namespace {

constexpr std::size_t kMaxQueuedPackets = 1'000'000;
constexpr std::size_t kMaxQueuedBytes = std::size_t{256} << 20;
constexpr std::uint32_t kTapQueue = 4096;
constexpr std::uint32_t kLargestTapMtu = 65521;
constexpr int kSendBuffer = 64 << 20;
/// Packets taken from one TAP before the clock is looked at again.
constexpr int kReadBatch = 8;
constexpr std::size_t kSendBatch = 32;
/// Below this a sleep would wake too late.
constexpr Duration kSpin = std::chrono::microseconds(30);

/// What passes between a packet's arrival at the TAP and its reading, and between its sending and
/// where it would have been without the relay: measured, about this much.
constexpr Duration kOwnTime = std::chrono::microseconds(50);

/// A packet lies in up to three pieces, so that a short one pins no 64 KiB and a long one is never
/// copied.
constexpr std::array<std::size_t, 3> kPieceSizes = {2048, 14336, 53248};
constexpr std::size_t kPieces = kPieceSizes.size();
constexpr std::size_t kLongest = kPieceSizes[0] + kPieceSizes[1] + kPieceSizes[2];

Fd open_tun() { return Fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)); }

/// `whole`: every frame comes as it would be on the wire, cut up and with its checksums.
Status make_tap(const std::string& name, bool whole, const Fd& tap) {
  ifreq request{};
  request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL);
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  if (ioctl(tap.number(), TUNSETIFF, &request) != 0) {
    return from_errno("cannot make the device " + name, errno);
  }
  failpoint<"relay.tap_made">();
  const int header_size = kVirtioHeader;
  if (ioctl(tap.number(), TUNSETVNETHDRSZ, &header_size) != 0) {
    return from_errno("cannot set the header size of " + name, errno);
  }
  if (whole) {
    if (ioctl(tap.number(), TUNSETOFFLOAD, 0UL) == 0) return ok();
    return from_errno("cannot set the offloads of " + name, errno);
  }
  constexpr unsigned long kTcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  if (ioctl(tap.number(), TUNSETOFFLOAD, kTcp | TUN_F_USO4 | TUN_F_USO6) != 0 &&
      ioctl(tap.number(), TUNSETOFFLOAD, kTcp) != 0) {
    return from_errno("cannot set the offloads of " + name, errno);
  }
  return ok();
}

Status open_sender(const Link& interface, std::uint32_t mark, Fd& sender) {
  const std::string where = "cannot send on " + interface.name;
  // Protocol 0: it receives nothing.
  sender = Fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (!sender.is_open()) return from_errno(where, errno);
  const int on = 1;
  // Blocking sends make the interface's own queue the brake; the bound keeps an end possible.
  const timeval patience{.tv_sec = 0, .tv_usec = 100'000};
  if (setsockopt(sender.number(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) != 0 ||
      setsockopt(sender.number(), SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) != 0 ||
      setsockopt(sender.number(), SOL_SOCKET, SO_SNDBUFFORCE, &kSendBuffer, sizeof(kSendBuffer)) !=
          0 ||
      setsockopt(sender.number(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) != 0) {
    return from_errno(where, errno);
  }
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = static_cast<int>(interface.index);
  if (bind(sender.number(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return from_errno(where, errno);
  }
  return ok();
}

using Piece = std::unique_ptr<std::byte[]>;
using Pieces = std::array<Piece, kPieces>;

struct Packet {
  MonotonicTime due;
  std::uint64_t number = 0;  ///< Of those due at once, the first read is the first sent.
  std::uint32_t port = 0;
  std::uint32_t length = 0;
  Pieces pieces;
};

/// The pieces that hold `length` bytes, as readv and sendmsg want them. Returns how many.
std::size_t to_vectors(const Pieces& pieces, std::size_t length, std::array<iovec, kPieces>& to) {
  std::size_t used = 0;
  for (; used < kPieces && length > 0; ++used) {
    const std::size_t here = std::min(length, kPieceSizes[used]);
    to[used] = iovec{.iov_base = pieces[used].get(), .iov_len = here};
    length -= here;
  }
  return used;
}

}  // namespace

/// Waits for something to do, does it exactly and before all others, and ends.
class RelayParts::Thread {
 public:
  static StatusOr<std::unique_ptr<Thread>> make() {
    // What a spare holder has mapped is locked into memory: so it is little.
    constexpr std::size_t kStack = 128 << 10;
    std::unique_ptr<Thread> thread(new Thread());
    // Signals are the other thread's, whatever fault it comes to hold: one of a child's end that
    // this thread took would be nobody's.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t small;
    int failed = ::pthread_attr_init(&small);
    if (failed == 0) failed = ::pthread_attr_setstacksize(&small, kStack);
    if (failed == 0) failed = ::pthread_create(&thread->thread_, &small, &work, thread.get());
    ::pthread_attr_destroy(&small);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (failed != 0) return from_errno("cannot start the relay's thread", failed);
    thread->made_ = true;
    return thread;
  }

  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  /// Waits for the end of what it does.
  ~Thread() {
    if (!made_) return;
    if (!work_) given_.release();
    ::pthread_join(thread_, nullptr);
  }

  /// Once.
  void run(std::function<void()> work) {
    work_ = std::move(work);
    given_.release();
  }

 private:
  Thread() = default;

  static void* work(void* self) {
    auto& thread = *static_cast<Thread*>(self);
    // The default slack of 50 us would be half of the error that is allowed. Of this thread only.
    prctl(PR_SET_TIMERSLACK, 1);
    // The node may be busy, by a fault of ours even; packets must not wait for that. Refused: it is
    // less exact.
    setpriority(PRIO_PROCESS, 0, -20);
    thread.given_.acquire();
    if (thread.work_) thread.work_();
    return nullptr;
  }

  bool made_ = false;
  pthread_t thread_{};
  std::binary_semaphore given_{0};
  std::function<void()> work_;
};

RelayParts RelayParts::make() {
  RelayParts parts;
  parts.tun_ = open_tun();
  StatusOr<std::unique_ptr<Thread>> thread = Thread::make();
  if (thread.ok()) parts.thread_ = *std::move(thread);
  return parts;
}

RelayParts::RelayParts() = default;
RelayParts::RelayParts(RelayParts&&) noexcept = default;
RelayParts& RelayParts::operator=(RelayParts&&) noexcept = default;
RelayParts::~RelayParts() = default;

/// One way of one interface.
struct Relay::Port {
  Fd tap;
  Fd sender;  ///< Egress only; ingress writes back to the TAP.
  bool ingress = false;
  bool gone = false;  ///< Somebody else removed the device.
};

/// The packets that are held, the next due on top, and the memory that they lie in.
class Relay::Queue {
 public:
  Queue(const Effect& effect, Counters& counters)
      : emulation_(effect, monotonic_now()),
        marks_(effect.ecn),
        corrupts_(effect.corrupt.percent > 0),
        has_slots_(effect.slot.has_value()),
        most_packets_(effect.limit == 0 ? kMaxQueuedPackets
                                        : std::min<std::size_t>(effect.limit, kMaxQueuedPackets)),
        counters_(counters) {}

  void become(const Effect& effect) { emulation_.become(effect); }
  bool is_empty() const { return heap_.empty(); }
  std::uint32_t next_port() const { return heap_.front().port; }
  MonotonicTime next_departure(MonotonicTime now) {
    return emulation_.departure(heap_.front().due, now);
  }
  bool has_due(MonotonicTime now) { return !is_empty() && next_departure(now) <= now; }

  /// Does to the packet that was read into scratch() what is asked, and keeps what is left of it.
  /// In netem_enqueue()'s order: a duplicate meets everything but duplication anew.
  void take(std::uint32_t port, std::size_t length, MonotonicTime read_at) {
    const FrameSize size = size_of(beginning(scratch_, length), length);
    const bool duplicated = emulation_.is_duplicated();
    const bool lost = loses(scratch_, length, size);
    if (lost && !duplicated) return count(counters_.dropped, size);
    if (duplicated && !lost) {
      count(counters_.duplicated, size);
      copy_scratch(length);
      if (loses(copy_, length, size)) {
        count(counters_.dropped, size);
      } else {
        enqueue(copy_, port, length, size, read_at);
      }
    }
    enqueue(scratch_, port, length, size, read_at);
  }

  Packet pop(MonotonicTime now) {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    Packet packet = std::move(heap_.back());
    heap_.pop_back();
    if (has_slots_) {
      const FrameSize size = size_of(beginning(packet.pieces, packet.length), packet.length);
      emulation_.has_left(packet.due, size.bytes, now);
    }
    return packet;
  }

  /// The interface took no more.
  void count_refused(const Packet& packet) {
    count(counters_.refused, size_of(beginning(packet.pieces, packet.length), packet.length));
  }

  void give_back(Packet& packet) {
    for (std::size_t piece = 0; piece < kPieces; ++piece) {
      if (!packet.pieces[piece]) continue;
      queued_bytes_ -= kPieceSizes[piece];
      spare_[piece].push_back(std::move(packet.pieces[piece]));
    }
  }

  /// Fills up the empty places with the memory used last, which the caches may still hold.
  void refill() { fill(scratch_, kLongest); }

  /// Where the next packet is read to.
  Pieces& scratch() { return scratch_; }
  /// Those being sent.
  std::array<Packet, kSendBatch>& batch() { return batch_; }

 private:
  static bool later(const Packet& a, const Packet& b) {
    return a.due != b.due ? a.due > b.due : a.number > b.number;
  }

  static std::span<std::byte> beginning(const Pieces& pieces, std::size_t length) {
    return {pieces[0].get(), std::min(length, kPieceSizes[0])};
  }

  static void count(std::atomic<std::uint64_t>& counter, const FrameSize& size) {
    counter.fetch_add(size.segments, std::memory_order_relaxed);
  }

  void fill(Pieces& pieces, std::size_t length) {
    for (std::size_t piece = 0; piece < kPieces && length > 0; ++piece) {
      length -= std::min(length, kPieceSizes[piece]);
      if (pieces[piece]) continue;
      if (spare_[piece].empty()) {
        pieces[piece] = std::make_unique_for_overwrite<std::byte[]>(kPieceSizes[piece]);
      } else {
        pieces[piece] = std::move(spare_[piece].back());
        spare_[piece].pop_back();
      }
    }
  }

  void copy_scratch(std::size_t length) {
    fill(copy_, length);
    for (std::size_t piece = 0; piece < kPieces && length > 0; ++piece) {
      const std::size_t here = std::min(length, kPieceSizes[piece]);
      std::memcpy(copy_[piece].get(), scratch_[piece].get(), here);
      length -= here;
    }
  }

  bool loses(Pieces& pieces, std::size_t length, const FrameSize& size) {
    if (!emulation_.is_lost()) return false;
    if (!marks_ || !set_congestion(beginning(pieces, length))) return true;
    count(counters_.marked, size);
    return false;
  }

  /// netem flips Ethernet's header as well; but a packet with another address there is only lost,
  /// or somebody else's.
  void corrupt(Pieces& pieces, std::size_t length, const FrameSize& size) {
    const std::size_t from = network_offset(beginning(pieces, length));
    const std::optional<std::uint64_t> bit = emulation_.flipped_bit((length - from) * 8);
    if (!bit) return;
    std::size_t at = from + *bit / 8;
    std::size_t piece = 0;
    for (; at >= kPieceSizes[piece]; ++piece) at -= kPieceSizes[piece];
    pieces[piece][at] ^= std::byte{1} << (*bit % 8);
    distrust_checksum(beginning(pieces, length));
    count(counters_.corrupted, size);
  }

  /// Takes the pieces, unless the queue is full.
  void enqueue(Pieces& pieces, std::uint32_t port, std::size_t length, const FrameSize& size,
               MonotonicTime read_at) {
    if (corrupts_) corrupt(pieces, length, size);
    if (heap_.size() >= most_packets_ || queued_bytes_ >= kMaxQueuedBytes) {
      return count(counters_.overflow, size);
    }
    Packet packet;
    packet.due = emulation_.time_to_send(read_at - kOwnTime, size.bytes);
    packet.number = next_number_++;
    packet.port = port;
    packet.length = static_cast<std::uint32_t>(length);
    for (std::size_t piece = 0; piece < kPieces && length > 0; ++piece) {
      packet.pieces[piece] = std::move(pieces[piece]);
      queued_bytes_ += kPieceSizes[piece];
      length -= std::min(length, kPieceSizes[piece]);
    }
    if (packet.due == Emulation::kAtOnce) count(counters_.reordered, size);
    heap_.push_back(std::move(packet));
    std::push_heap(heap_.begin(), heap_.end(), later);
  }

  Emulation emulation_;
  bool marks_;
  bool corrupts_;
  bool has_slots_;
  std::size_t most_packets_;
  Counters& counters_;

  Pieces scratch_;
  Pieces copy_;
  std::array<Packet, kSendBatch> batch_;
  std::vector<Packet> heap_;
  std::array<std::vector<Piece>, kPieces> spare_;
  std::size_t queued_bytes_ = 0;
  std::uint64_t next_number_ = 0;
};

Relay::Relay(const Effect& effect, RelayParts parts)
    : effect_(effect),
      queue_(std::make_unique<Queue>(effect, counters_)),
      parts_(std::move(parts)) {}

Relay::~Relay() {
  end_effect();
  stop_ = true;
  if (started_) eventfd_write(wake_.number(), 1);
}

StatusOr<std::uint32_t> Relay::add_port(Netlink& netlink, const std::string& name,
                                        const std::string& tag, const Link& interface, bool ingress,
                                        std::uint32_t mark) {
  Port port;
  port.ingress = ingress;
  port.tap = parts_.tun_.is_open() ? std::move(parts_.tun_) : open_tun();
  if (!port.tap.is_open()) return from_errno("cannot open /dev/net/tun", errno);
  if (Status made = make_tap(name, effect_.corrupt.percent > 0, port.tap); !made.ok()) return made;
  const std::uint32_t index = if_nametoindex(name.c_str());
  if (index == 0) return from_errno("the device " + name + " is gone", errno);
  LinkSettings settings;
  settings.alias = tag;
  settings.mtu = std::min(std::max(interface.mtu, 1500u), kLargestTapMtu);
  settings.queue_length = kTapQueue;
  // With the interface's own address, what is handed back is taken as for this host or for others
  // just as before.
  const bool has_address = std::any_of(interface.address.begin(), interface.address.end(),
                                       [](std::byte byte) { return byte != std::byte{0}; });
  if (ingress && has_address) settings.address = interface.address;
  if (Status set = netlink.set_link(index, settings); !set.ok()) return in_context(name, set);
  if (Status up = netlink.set_up(index); !up.ok()) return in_context(name, up);
  if (!ingress) {
    if (Status opened = open_sender(interface, mark, port.sender); !opened.ok()) return opened;
  }
  ports_.push_back(std::move(port));
  return index;
}

Status Relay::start(Classifier& classifier) {
  classifier_ = &classifier;
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.is_open()) return from_errno("cannot make an eventfd", errno);
  if (!parts_.thread_) {
    StatusOr<std::unique_ptr<RelayParts::Thread>> thread = RelayParts::Thread::make();
    if (!thread.ok()) return thread.status();
    parts_.thread_ = *std::move(thread);
  }
  parts_.thread_->run([this] {
    try {
      run();
    } catch (const std::exception&) {
      end_effect();  // no memory for another packet
    }
  });
  started_ = true;
  return ok();
}

void Relay::pulse(MonotonicTime deadline) {
  {
    const std::lock_guard lock(deadline_mutex_);
    deadline_ = deadline;
  }
  renew();
}

void Relay::end_effect() {
  const std::lock_guard lock(deadline_mutex_);
  ended_ = true;
  if (classifier_ != nullptr) classifier_->end();
}

void Relay::renew() {
  const std::lock_guard lock(deadline_mutex_);
  if (ended_) return;
  classifier_->set_deadline(std::min(deadline_, monotonic_now() + kKernelDeadline));
}

bool Relay::drain(Duration bound) {
  if (!started_) return true;
  // Twice: the pass that is under way may have read its ports before this was called.
  constexpr std::uint64_t kPasses = 2;
  const MonotonicTime end = monotonic_now() + bound;
  std::unique_lock lock(idle_mutex_);
  const std::uint64_t before = idle_passes_;
  while (idle_passes_ < before + kPasses) {
    if (monotonic_now() >= end) return false;
    eventfd_write(wake_.number(), 1);
    idle_changed_.wait_for(lock, std::chrono::milliseconds(1));
  }
  return true;
}

RelayCounts Relay::counts() const {
  return {.dropped = counters_.dropped.load(),
          .marked = counters_.marked.load(),
          .duplicated = counters_.duplicated.load(),
          .corrupted = counters_.corrupted.load(),
          .reordered = counters_.reordered.load(),
          .overflow = counters_.overflow.load(),
          .refused = counters_.refused.load()};
}

void Relay::become(const Effect& effect) {
  const std::lock_guard lock(effect_mutex_);
  next_effect_ = effect;
  has_next_effect_ = true;
}

void Relay::take_next_effect() {
  const std::lock_guard lock(effect_mutex_);
  has_next_effect_ = false;
  queue_->become(*next_effect_);
}

void Relay::run() {
  std::vector<pollfd> polled;
  for (const Port& port : ports_)
    polled.push_back({.fd = port.tap.number(), .events = POLLIN, .revents = 0});
  polled.push_back({.fd = wake_.number(), .events = POLLIN, .revents = 0});

  MonotonicTime next_renewal = monotonic_now() + kRenewal;
  while (!stop_) {
    MonotonicTime now = monotonic_now();
    if (now >= next_renewal) {
      renew();
      next_renewal = now + kRenewal;
    }
    if (has_next_effect_) take_next_effect();
    send_due(now);
    bool more = false;
    for (std::uint32_t i = 0; i < ports_.size(); ++i) {
      if (ports_[i].gone) {
        polled[i].fd = -1;
      } else {
        more = read_port(ports_[i], i) || more;
      }
    }
    if (more) continue;

    MonotonicTime wake_at = next_renewal;
    if (queue_->is_empty()) {
      {
        const std::lock_guard lock(idle_mutex_);
        ++idle_passes_;
      }
      idle_changed_.notify_all();
    } else {
      wake_at = std::min(wake_at, queue_->next_departure(now));
    }
    const Duration left = wake_at - monotonic_now() - kSpin;
    if (left <= Duration::zero()) continue;
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
    if (ppoll(polled.data(), polled.size(), &timeout, nullptr) > 0 &&
        (polled.back().revents & POLLIN) != 0) {
      eventfd_t count = 0;
      eventfd_read(wake_.number(), &count);
    }
  }
}

bool Relay::read_port(Port& port, std::uint32_t number) {
  for (int i = 0; i < kReadBatch; ++i) {
    queue_->refill();
    std::array<iovec, kPieces> vectors{};
    to_vectors(queue_->scratch(), kLongest, vectors);
    const ssize_t length = readv(port.tap.number(), vectors.data(), kPieces);
    if (length <= 0) {
      if (length < 0 && errno == EINTR) return true;
      if (length == 0 || errno == EAGAIN) return false;
      // EBADFD: somebody else removed the device. Without it the filter's matches would all be
      // lost.
      port.gone = true;
      end_effect();
      return false;
    }
    queue_->take(number, static_cast<std::size_t>(length), monotonic_now());
  }
  return true;
}

void Relay::send_due(MonotonicTime now) {
  while (queue_->has_due(now)) {
    std::array<Packet, kSendBatch>& batch = queue_->batch();
    std::array<mmsghdr, kSendBatch> messages{};
    std::array<std::array<iovec, kPieces>, kSendBatch> vectors{};
    std::size_t count = 0;
    const std::uint32_t port_number = queue_->next_port();
    // Up to another interface's turn: one batch goes by one socket.
    while (count < kSendBatch && queue_->has_due(now) && queue_->next_port() == port_number) {
      batch[count] = queue_->pop(now);
      messages[count].msg_hdr.msg_iov = vectors[count].data();
      messages[count].msg_hdr.msg_iovlen =
          to_vectors(batch[count].pieces, batch[count].length, vectors[count]);
      ++count;
    }
    const Port& port = ports_[port_number];
    std::size_t done = 0;
    while (done < count) {
      int sent = 0;
      if (port.ingress) {
        sent = writev(port.tap.number(), vectors[done].data(),
                      static_cast<int>(messages[done].msg_hdr.msg_iovlen)) >= 0
                   ? 1
                   : -1;
      } else {
        sent = sendmmsg(port.sender.number(), messages.data() + done,
                        static_cast<unsigned>(count - done), 0);
      }
      if (sent < 0 && errno == EINTR) continue;
      // Refused by the interface: its queue is full, it is down or gone. The next one may pass.
      if (sent <= 0) queue_->count_refused(batch[done]);
      done += sent > 0 ? static_cast<std::size_t>(sent) : 1;
    }
    for (std::size_t i = 0; i < count; ++i) queue_->give_back(batch[i]);
  }
}

}  // namespace squall::network
