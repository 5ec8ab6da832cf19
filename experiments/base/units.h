/// \file
/// Quantities with their unit, read from a plan and written for people. One spelling in, one
/// spelling out: what format_* writes, parse_* reads back to the same value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"

namespace squall {

/// Reads 200ms, 1.5s, 2m, 1h, 100us, 50ns: a decimal number with its unit, nothing between them or
/// one blank. Errors: kInvalidArgument with what is wrong and what would be right, for a missing or
/// unknown unit, a sign, an exponent, anything below 1 ns that is not 0, and more than about 292
/// years.
StatusOr<Duration> parse_duration(std::string_view text);

/// Reads 1%, 0.5%, 100%: percent of the whole, 0 to 100. Errors: as parse_duration.
StatusOr<double> parse_percent(std::string_view text);

/// Reads 512B, 64KiB, 64MiB, 1GiB (powers of 1024) and 1kB, 1MB, 1GB (powers of 1000). Errors: as
/// parse_duration.
StatusOr<std::uint64_t> parse_bytes(std::string_view text);

/// Reads 10bit, 10kbit, 10mbit, 1gbit: bits per second as tc(8) has them, powers of 1000. Errors:
/// as parse_duration.
StatusOr<std::uint64_t> parse_rate(std::string_view text);

/// Reads 1000/s, 0.5/s: how many of something a second. Errors: as parse_duration.
StatusOr<double> parse_per_second(std::string_view text);

/// A whole number, 0 or more: digits only, no leading zero, so that octal and times of day never
/// slip in.
StatusOr<std::uint64_t> parse_count(std::string_view text);

/// The shortest exact spelling: 200ms, 1.5s, 2m.
std::string format_duration(Duration duration);

/// For people reading measurements: three significant digits, 12.3ms, 1.20s, 480us.
std::string format_measured(Duration duration);

std::string format_percent(double percent);
std::string format_per_second(double per_second);
std::string format_bytes(std::uint64_t bytes);
std::string format_rate(std::uint64_t bits_per_second);

/// How the units of each are written, smallest first, for whoever describes quantities.
std::vector<std::string_view> duration_units();
std::vector<std::string_view> percent_units();
std::vector<std::string_view> per_second_units();
std::vector<std::string_view> byte_units();
std::vector<std::string_view> rate_units();

}  // namespace squall
