/// \file
/// What the bench has measured, as a table for people and as JSON.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace squall::bench {

/// One measured figure. With a target it is held against it.
struct Row {
  std::string section = {};  ///< inject, revert, validate, …
  std::string what = {};
  std::string unit = {};
  double median = 0;
  std::optional<double> p99 = {};  ///< Absent where there is one figure only.
  std::size_t samples = 1;
  std::optional<double> at_most = {};   ///< The median's target.
  std::optional<double> at_least = {};  ///< The same, where more is better.

  /// Whether the target is reached, or there is none.
  bool reached() const;
};

class Table {
 public:
  void add(Row row);

  /// Median and p99 of the samples; what is empty is told as missing.
  void add(Row row, std::vector<double> samples);

  /// What another bench's json() says. Throws std::exception when it is none.
  void add_json(const std::string& text);

  /// A section that could not be measured, and why.
  void missing(const std::string& section, const std::string& why);

  void print() const;
  std::string json() const;

  /// Whether everything was measured and every target reached.
  bool reached() const;

 private:
  std::vector<Row> rows_;
  std::vector<std::pair<std::string, std::string>> missing_;
};

/// The value below which a share of the samples lies (nearest rank); sorts them.
double quantile(std::vector<double>& samples, double share);

}  // namespace squall::bench
