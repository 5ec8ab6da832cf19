/// \file
/// The one way in which a file of a plan is opened and read: whole, bounded, never a device.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <string>

#include "experiments/base/fd.h"

namespace squall::plan {

/// Why a file is not read, whatever it holds; empty: it is.
using Unfit = std::function<std::string(const struct stat&)>;

/// Reads the file into `text`, or says why not. At most 1 MiB; neither a directory nor a device nor
/// a fifo.
std::string read_file(const std::string& path, const Unfit& unfit, std::string& text);

/// A folder that files are read from, and only those below it: a link that leads out of it is
/// refused by the kernel.
class Folder {
 public:
  /// Of the file with this name.
  explicit Folder(const std::string& file);

  /// As read_file(); `path` counts from the folder.
  std::string read_below(const std::string& path, std::string& text) const;

  /// A path below it as the user would write it.
  std::string shown(const std::string& path) const;

 private:
  std::string name_;
  Fd folder_;
};

}  // namespace squall::plan
