/// \file
/// libpq, loaded by the first question to a PostgreSQL server: with it come Kerberos and LDAP,
/// which no other program start has to wait for.
#pragma once

#include <libpq-fe.h>

#include <string>

namespace squall::checks {

/// The functions that we call, by the names that <libpq-fe.h> gives them behind `PQ`.
struct Pq {
  decltype(&PQclear) clear = nullptr;
  decltype(&PQconnectPoll) connect_poll = nullptr;
  decltype(&PQconnectStartParams) connect_start_params = nullptr;
  decltype(&PQconninfoFree) conninfo_free = nullptr;
  decltype(&PQconninfoParse) conninfo_parse = nullptr;
  decltype(&PQconsumeInput) consume_input = nullptr;
  decltype(&PQerrorMessage) error_message = nullptr;
  decltype(&PQfinish) finish = nullptr;
  decltype(&PQflush) flush = nullptr;
  decltype(&PQfreemem) freemem = nullptr;
  decltype(&PQgetResult) get_result = nullptr;
  decltype(&PQgetisnull) getisnull = nullptr;
  decltype(&PQgetlength) getlength = nullptr;
  decltype(&PQgetvalue) getvalue = nullptr;
  decltype(&PQisBusy) is_busy = nullptr;
  decltype(&PQnfields) nfields = nullptr;
  decltype(&PQresultErrorField) result_error_field = nullptr;
  decltype(&PQresultStatus) result_status = nullptr;
  decltype(&PQsendQueryParams) send_query_params = nullptr;
  decltype(&PQsetNoticeReceiver) set_notice_receiver = nullptr;
  decltype(&PQsetSingleRowMode) set_single_row_mode = nullptr;
  decltype(&PQsetnonblocking) setnonblocking = nullptr;
  decltype(&PQsocket) socket = nullptr;
  decltype(&PQstatus) status = nullptr;

  std::string error;  ///< Why nothing can be asked; empty: all of them are there.
};

/// Loads it at the first call. From any thread; stays until the program ends.
const Pq& pq();

}  // namespace squall::checks
