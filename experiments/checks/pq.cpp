#include "experiments/checks/pq.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace squall::checks {
namespace {

/// Of every PostgreSQL since 8.
constexpr const char* kLibrary = "libpq.so.5";

Pq load() {
  Pq pq;
  void* const library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    pq.error = fmt::format("libpq cannot be loaded: {}", ::dlerror());
    return pq;
  }
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(library, name));
    if (function == nullptr) pq.error = fmt::format("{} has no {}", kLibrary, name);
  };
  find("PQclear", pq.clear);
  find("PQconnectPoll", pq.connect_poll);
  find("PQconnectStartParams", pq.connect_start_params);
  find("PQconninfoFree", pq.conninfo_free);
  find("PQconninfoParse", pq.conninfo_parse);
  find("PQconsumeInput", pq.consume_input);
  find("PQerrorMessage", pq.error_message);
  find("PQfinish", pq.finish);
  find("PQflush", pq.flush);
  find("PQfreemem", pq.freemem);
  find("PQgetResult", pq.get_result);
  find("PQgetisnull", pq.getisnull);
  find("PQgetlength", pq.getlength);
  find("PQgetvalue", pq.getvalue);
  find("PQisBusy", pq.is_busy);
  find("PQnfields", pq.nfields);
  find("PQresultErrorField", pq.result_error_field);
  find("PQresultStatus", pq.result_status);
  find("PQsendQueryParams", pq.send_query_params);
  find("PQsetNoticeReceiver", pq.set_notice_receiver);
  find("PQsetSingleRowMode", pq.set_single_row_mode);
  find("PQsetnonblocking", pq.setnonblocking);
  find("PQsocket", pq.socket);
  find("PQstatus", pq.status);
  return pq;
}

}  // namespace

const Pq& pq() {
  static const Pq loaded = load();
  return loaded;
}

}  // namespace squall::checks
