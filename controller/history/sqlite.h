/// \file
/// The door to SQLite: handles that close themselves, codes as Status.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"

struct sqlite3;
struct sqlite3_stmt;

namespace squall::history {

class Statement;

/// One connection. For one thread.
class Database {
 public:
  /// Makes the file where it is missing; ":memory:" is one that nobody else sees. Errors: kDataLoss
  /// for what is no database, or a damaged one; kUnavailable while another holds it for longer than
  /// `patience`; else kInternal. So for everything here.
  static StatusOr<Database> open(const std::string& path, Duration patience);

  /// Statements without results.
  Status run(const std::string& statements);

  StatusOr<Statement> prepare(const std::string& statement);

 private:
  friend class Statement;
  struct Close {
    void operator()(sqlite3* handle) const;
  };
  explicit Database(sqlite3* handle) : handle_(handle) {}

  std::unique_ptr<sqlite3, Close> handle_;
};

/// Destroyed before its Database. Parameters count from 1, columns from 0.
class Statement {
 public:
  void bind(int parameter, std::string_view text);
  void bind(int parameter, std::int64_t number);
  void bind(int parameter, const std::optional<double>& number);

  /// Whether there is a row now; false: there are no more, and it may be bound anew.
  StatusOr<bool> step();

  bool is_null(int column) const;
  std::string text(int column) const;
  std::int64_t number(int column) const;
  std::optional<double> real(int column) const;

 private:
  friend class Database;
  struct Finalize {
    void operator()(sqlite3_stmt* handle) const;
  };
  explicit Statement(sqlite3_stmt* handle) : handle_(handle) {}

  std::unique_ptr<sqlite3_stmt, Finalize> handle_;
};

}  // namespace squall::history
