/// \file
/// Fingerprints of what faults act upon, beside the network's (fingerprint_of in holder.h): what
/// must read the same, byte for byte, before a fault and after it. A fact a line.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace squall::support {

using Fingerprint = std::vector<std::string>;

/// Whether it stands, who traces it, its limits, processors, control groups, namespaces and how
/// soon the OOM killer takes it. Of one that has ended, that alone.
Fingerprint fingerprint_of_process(pid_t pid);

/// Every file of a control group that can be written, who is in it among them, and the same of the
/// groups below it. `folder` is where it is mounted.
Fingerprint fingerprint_of_group(const std::filesystem::path& folder);

/// All that stat(2), the attributes and the content tell of a file, or of a folder and what is in
/// it, and every mount there, but for the times of reading and of the last change to the inode,
/// which a rename moves.
Fingerprint fingerprint_of_files(const std::filesystem::path& path);

/// A systemd unit by its manager's word: whether it is active, loaded and enabled.
Fingerprint fingerprint_of_unit(const std::string& unit);

/// One after the other.
Fingerprint operator+(Fingerprint left, const Fingerprint& right);

}  // namespace squall::support
