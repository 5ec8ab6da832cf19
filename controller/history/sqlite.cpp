#include "controller/history/sqlite.h"

#include <sqlite3.h>

namespace squall::history {
namespace {

Status to_status(sqlite3* handle, int code) {
  if (code == SQLITE_OK) return ok();
  const std::string words =
      std::string("SQLite: ") + (handle == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(handle));
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return error(StatusCode::kDataLoss, words);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return error(StatusCode::kUnavailable, words);
    default:
      return error(StatusCode::kInternal, words);
  }
}

}  // namespace

void Database::Close::operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }

StatusOr<Database> Database::open(const std::string& path, Duration patience) {
  sqlite3* handle = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &handle,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  Database database(handle);  // even where it could not be opened it has to be closed
  if (code != SQLITE_OK) return to_status(handle, code);
  sqlite3_busy_timeout(handle, static_cast<int>(to_ms(patience)));
  return database;
}

Status Database::run(const std::string& statements) {
  return to_status(handle_.get(),
                   sqlite3_exec(handle_.get(), statements.c_str(), nullptr, nullptr, nullptr));
}

StatusOr<Statement> Database::prepare(const std::string& statement) {
  sqlite3_stmt* handle = nullptr;
  const int code = sqlite3_prepare_v2(handle_.get(), statement.c_str(), -1, &handle, nullptr);
  if (code != SQLITE_OK) return to_status(handle_.get(), code);
  return Statement(handle);
}

void Statement::Finalize::operator()(sqlite3_stmt* handle) const { sqlite3_finalize(handle); }

void Statement::bind(int parameter, std::string_view text) {
  // An empty view may be null, which would be NULL.
  sqlite3_bind_text(handle_.get(), parameter, text.empty() ? "" : text.data(),
                    static_cast<int>(text.size()), SQLITE_TRANSIENT);
}

void Statement::bind(int parameter, std::int64_t number) {
  sqlite3_bind_int64(handle_.get(), parameter, number);
}

void Statement::bind(int parameter, const std::optional<double>& number) {
  if (number) {
    sqlite3_bind_double(handle_.get(), parameter, *number);
  } else {
    sqlite3_bind_null(handle_.get(), parameter);
  }
}

StatusOr<bool> Statement::step() {
  const int code = sqlite3_step(handle_.get());
  if (code == SQLITE_ROW) return true;
  sqlite3* const database = sqlite3_db_handle(handle_.get());
  const Status status = code == SQLITE_DONE ? ok() : to_status(database, code);
  sqlite3_reset(handle_.get());
  if (!status.ok()) return status;
  return false;
}

bool Statement::is_null(int column) const {
  return sqlite3_column_type(handle_.get(), column) == SQLITE_NULL;
}

std::string Statement::text(int column) const {
  const unsigned char* const bytes = sqlite3_column_text(handle_.get(), column);
  const int size = sqlite3_column_bytes(handle_.get(), column);
  return bytes == nullptr
             ? ""
             : std::string(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
}

std::int64_t Statement::number(int column) const {
  return sqlite3_column_int64(handle_.get(), column);
}

std::optional<double> Statement::real(int column) const {
  if (is_null(column)) return std::nullopt;
  return sqlite3_column_double(handle_.get(), column);
}

}  // namespace squall::history
