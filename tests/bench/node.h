/// \file
/// A squalld of the bench's own, and a lease on it.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "squall/v1/node.pb.h"
#include "tests/bench/process.h"

namespace squall::bench {

/// Started in the calling process's network namespace, on a unix socket in a folder of its own;
/// both are gone with it.
class Daemon {
 public:
  /// `bin` is where squalld and squall-hold are. Returns when it answers. Throws
  /// std::runtime_error.
  explicit Daemon(const std::filesystem::path& bin);
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  pid_t pid() const { return process_.pid(); }
  std::string address() const;

 private:
  Folder folder_;
  Process process_;
};

/// An open lease: renewed with every call, so call often. For one thread.
class Lease {
 public:
  explicit Lease(const Daemon& daemon);
  ~Lease();

  void inject(const v1::Fault& fault);
  void revert(const std::string& fault);
  void renew();

  /// Reads events until one fits. Throws for a failed fault and for the end of the stream.
  v1::LeaseEvent until(v1::LeaseEvent::EventCase wanted);

 private:
  struct Stream;
  std::unique_ptr<Stream> stream_;
};

}  // namespace squall::bench
