/// \file
/// Hosts to break things on: network namespaces and the cables between them, which end with the
/// objects that hold them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

namespace squall::support {

/// A network namespace with its loopback up. It has no name unless asked for: the object's
/// descriptor holds it, and with the last descriptor and the last process in it, it and its devices
/// are gone.
class Namespace {
 public:
  Namespace();

  /// Also bound to /run/netns/NAME, for programs that look there; unbound in the destructor.
  explicit Namespace(const std::string& name);

  Namespace(const Namespace&) = delete;
  Namespace& operator=(const Namespace&) = delete;
  ~Namespace();

  int fd() const { return fd_; }
  std::uint64_t inode() const;

  /// Runs it with the calling thread inside. Sockets and processes made there stay there.
  template <typename Function>
  std::invoke_result_t<Function> run(Function function) const {
    const Inside inside(*this);
    return function();
  }

 private:
  class Inside {
   public:
    explicit Inside(const Namespace& where);
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
    ~Inside();

   private:
    int before_ = -1;
  };

  int fd_ = -1;
  std::string bound_to_;
};

/// A cable: a veth pair, both ends up, with addresses 10.77.NET.1/24 and fd77:NET::1/64 on the
/// first end, .2 and ::2 on the second, usable at once. It goes with either namespace.
void connect(const Namespace& first, const std::string& first_interface, const Namespace& second,
             const std::string& second_interface, int net);

/// An owner's clsact on an interface, for faults to share. Without one, the kernel stops the
/// interface for a moment when one is made and again when it is removed, and loses what is sent
/// meanwhile. Source: net/sched/sch_api.c, qdisc_graft().
void add_clsact(const Namespace& where, const std::string& interface);

/// Writes a file below /proc/sys as seen from the namespace.
void set_sysctl(const Namespace& where, const std::string& name, const std::string& value);

/// The node on which faults are raised, and a client that measures from outside.
struct TwoHosts {
  Namespace client;  ///< eth0: 10.77.0.1, fd77:0::1
  Namespace node;    ///< eth0: 10.77.0.2, fd77:0::2

  TwoHosts();

  static constexpr const char* kClient4 = "10.77.0.1";
  static constexpr const char* kClient6 = "fd77::1";
  static constexpr const char* kNode4 = "10.77.0.2";
  static constexpr const char* kNode6 = "fd77::2";
};

/// As TwoHosts, with another host behind the node's second interface.
struct ThreeHosts : TwoHosts {
  Namespace other;  ///< eth0: 10.77.1.2, fd77:1::2; the node's eth1: 10.77.1.1, fd77:1::1

  ThreeHosts();

  static constexpr const char* kOther4 = "10.77.1.2";
  static constexpr const char* kOther6 = "fd77:1::2";
};

}  // namespace squall::support
