#include "experiments/checks/curl.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace squall::checks {
namespace {

/// Of Debian 12 and Ubuntu 24.04 alike, whichever TLS it is built with.
constexpr const char* kLibrary = "libcurl.so.4";

Curl load() {
  Curl curl;
  void* const library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    curl.error = fmt::format("libcurl cannot be loaded: {}", ::dlerror());
    return curl;
  }
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(library, name));
    if (function == nullptr) curl.error = fmt::format("{} has no {}", kLibrary, name);
  };
  decltype(&curl_global_init) global_init = nullptr;
  find("curl_global_init", global_init);
  find("curl_easy_cleanup", curl.easy_cleanup);
  find("curl_easy_getinfo", curl.easy_getinfo);
  find("curl_easy_init", curl.easy_init);
  find("curl_easy_setopt", curl.easy_setopt);
  find("curl_easy_strerror", curl.easy_strerror);
  find("curl_multi_add_handle", curl.multi_add_handle);
  find("curl_multi_cleanup", curl.multi_cleanup);
  find("curl_multi_info_read", curl.multi_info_read);
  find("curl_multi_init", curl.multi_init);
  find("curl_multi_remove_handle", curl.multi_remove_handle);
  find("curl_multi_setopt", curl.multi_setopt);
  find("curl_multi_socket_action", curl.multi_socket_action);
  find("curl_slist_append", curl.slist_append);
  find("curl_slist_free_all", curl.slist_free_all);
  find("curl_strnequal", curl.strnequal);
  if (curl.error.empty() && global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
    curl.error = "libcurl cannot be initialised";
  }
  return curl;
}

}  // namespace

const Curl& curl() {
  static const Curl loaded = load();
  return loaded;
}

}  // namespace squall::checks
