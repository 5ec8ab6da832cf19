/// \file
/// What a client sees: round trips and losses, measured from another namespace than the one that is
/// disturbed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/base/clock.h"

namespace squall::support {

class Namespace;

/// Answers every datagram and every byte on one port, UDP and TCP, IPv4 and IPv6, until destroyed.
class Echo {
 public:
  Echo(const Namespace& where, std::uint16_t port);
  Echo(const Echo&) = delete;
  Echo& operator=(const Echo&) = delete;
  ~Echo();

 private:
  class Server;
  std::unique_ptr<Server> server_;
};

/// One datagram and its answer.
struct Probe {
  MonotonicTime sent;
  std::optional<Duration> round_trip;  ///< Nothing: no answer (yet).
};

std::size_t answered(const std::vector<Probe>& probes);

/// Of the answered ones; zero if there are none.
Duration median_round_trip(const std::vector<Probe>& probes);

/// The stretches without answers, by when they were sent: "12 lost from -3 ms to 57 ms; ", with
/// times since `origin`.
std::string losses(const std::vector<Probe>& probes, MonotonicTime origin);

/// When the first probe left after which none was lost or took longer than `limit`; nothing if the
/// last one did.
std::optional<MonotonicTime> untouched_from(const std::vector<Probe>& probes, Duration limit);

/// Datagrams at a steady pace, `count` in all, to an Echo, each numbered, each answer's time taken.
class Stream {
 public:
  Stream(const Namespace& from, const std::string& address, std::uint16_t port,
         Duration every = std::chrono::milliseconds(5), std::size_t count = SIZE_MAX);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  /// Those sent so far.
  std::vector<Probe> probes() const;

  /// Sends no more, takes answers for at most `grace` or until all have come, and returns
  /// everything.
  std::vector<Probe> finish(Duration grace);

  /// Waits until twenty probes in a row, all sent after `after`, were answered within `limit`.
  bool passes_untouched(MonotonicTime after, Duration limit, Duration bound) const;

  /// Waits until ten probes in a row, all sent after `after`, were answered later than `limit` or,
  /// half a second after they left, not at all.
  bool is_disturbed(MonotonicTime after, Duration limit, Duration bound) const;

 private:
  class Sender;
  std::unique_ptr<Sender> sender_;
};

/// `count` probes, and their answers as far as they come within `grace` of the last.
std::vector<Probe> measure(const Namespace& from, const std::string& address, std::uint16_t port,
                           std::size_t count, Duration grace = std::chrono::seconds(2));

/// A datagram that arrived.
struct OneWayArrival {
  std::uint64_t number = 0;  ///< Of those sent to its port, from 0.
  Duration at{};             ///< When the kernel received it, since some moment.
  Duration took{};           ///< Since it was sent.
  bool congested = false;    ///< Marked so by ECN.
};

/// Takes what send_one_way() sends, on several ports at once, until destroyed.
class Sink {
 public:
  Sink(const Namespace& where, const std::vector<std::uint16_t>& ports);
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  ~Sink();

  /// In their order, once nothing has come on any port for as long as `quiet`.
  std::vector<OneWayArrival> arrivals(std::uint16_t port, Duration quiet) const;

 private:
  class Receiver;
  std::unique_ptr<Receiver> receiver_;
};

/// Numbered datagrams, one to each port in every round. They claim to know ECN.
struct OneWay {
  std::string address{};
  std::vector<std::uint16_t> ports{};
  std::size_t rounds = 0;
  std::size_t size = 100;  ///< Bytes, without headers; at least 16.
  Duration every{};        ///< From round to round.
};

void send_one_way(const Namespace& from, const OneWay& wanted);

/// What the kernel has counted in a namespace, by /proc/net/snmp's names: "Udp", "InCsumErrors".
std::uint64_t snmp(const Namespace& where, const std::string& protocol, const std::string& name);

/// One byte there and back, `count` times on one TCP connection; the first is the connection's own
/// handshake. Stops at whatever takes longer than `bound`.
std::vector<Duration> tcp_round_trips(const Namespace& from, const std::string& address,
                                      std::uint16_t port, std::size_t count,
                                      Duration bound = std::chrono::seconds(3));

}  // namespace squall::support
