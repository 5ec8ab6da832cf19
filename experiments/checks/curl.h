/// \file
/// libcurl, loaded by the first request. With it come some thirty libraries (LDAP, Kerberos, SSH),
/// which took more of the time of `squall validate` than reading a plan does, were they loaded with
/// the program.
#pragma once

#include <curl/curl.h>

#include <string>

namespace squall::checks {

/// The functions that we call, by the names that <curl/curl.h> gives them behind `curl_`.
struct Curl {
  decltype(&curl_easy_cleanup) easy_cleanup = nullptr;
  decltype(&curl_easy_getinfo) easy_getinfo = nullptr;
  decltype(&curl_easy_init) easy_init = nullptr;
  decltype(&curl_easy_setopt) easy_setopt = nullptr;
  decltype(&curl_easy_strerror) easy_strerror = nullptr;
  decltype(&curl_multi_add_handle) multi_add_handle = nullptr;
  decltype(&curl_multi_cleanup) multi_cleanup = nullptr;
  decltype(&curl_multi_info_read) multi_info_read = nullptr;
  decltype(&curl_multi_init) multi_init = nullptr;
  decltype(&curl_multi_remove_handle) multi_remove_handle = nullptr;
  decltype(&curl_multi_setopt) multi_setopt = nullptr;
  decltype(&curl_multi_socket_action) multi_socket_action = nullptr;
  decltype(&curl_slist_append) slist_append = nullptr;
  decltype(&curl_slist_free_all) slist_free_all = nullptr;
  decltype(&curl_strnequal) strnequal = nullptr;

  std::string error;  ///< Why nothing can be asked; empty: all of them are there.
};

/// Loads and initialises it at the first call. From any thread; stays until the program ends.
const Curl& curl();

}  // namespace squall::checks
