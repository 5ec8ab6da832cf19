/// \file
/// The lab's inner side: what the program does as process 1 of the User-Mode-Linux kernel.
#pragma once

namespace squall::lab {

/// The environment variable, handed over on the kernel's command line, that names the results
/// folder on the host.
inline constexpr const char* kResultsVariable = "SQUALL_LAB_RESULTS";

/// Likewise, what shall be process 1 once the guest is prepared; the cases then run as a unit of
/// it.
inline constexpr const char* kInitVariable = "SQUALL_LAB_INIT";

/// Prepares the guest (file systems, kernel modules, loopback), runs every case of the job, writes
/// each case's output and status into the results folder, and powers off. Never returns.
[[noreturn]] void run_guest();

/// The cases and the end alone, as the unit of another process 1.
[[noreturn]] void run_cases();

}  // namespace squall::lab
