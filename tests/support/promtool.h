/// \file
/// Prometheus's own judgement of metrics.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <string>

#include "tests/support/process.h"

namespace squall::support {

/// What `promtool check metrics` says of a text in Prometheus's format; empty: it is as it should
/// be. Throws std::runtime_error where promtool cannot be asked.
inline std::string promtool_says(const std::string& metrics) {
  const int file = memfd_create("metrics", MFD_CLOEXEC);
  if (file < 0 ||
      write(file, metrics.data(), metrics.size()) != static_cast<ssize_t>(metrics.size()) ||
      lseek(file, 0, SEEK_SET) != 0) {
    throw std::runtime_error("no file for the metrics");
  }
  Command command;
  command.argv = {"promtool", "check", "metrics"};
  command.descriptors = {{file, STDIN_FILENO}};
  Process promtool(command);
  close(file);
  const auto status = promtool.wait(std::chrono::seconds(20));
  if (!status || *status > 3) throw std::runtime_error("promtool: " + promtool.err());
  std::string words = promtool.out() + promtool.err();
  if (*status != 0 && words.empty()) words = "it ended with " + std::to_string(*status);
  return words;
}

}  // namespace squall::support
