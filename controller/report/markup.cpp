#include "controller/report/markup.h"

#include "experiments/base/diagnostic.h"

namespace squall::report {

std::string xml(std::string_view text) {
  std::string out;
  for (const char c : escape_controls(text, true)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\n':
        out += "&#10;";
        break;
      default:
        out += c;
    }
  }
  for (const std::string_view forbidden : {"\xEF\xBF\xBE", "\xEF\xBF\xBF"}) {
    for (std::size_t at = out.find(forbidden); at != std::string::npos;
         at = out.find(forbidden, at)) {
      out[at] = '?';
      out.erase(at + 1, forbidden.size() - 1);
    }
  }
  return out;
}

std::string markdown(std::string_view text) {
  std::string out;
  for (const char c : escape_controls(text)) {
    // A mention would call somebody, and a backslash does not keep it from that.
    if (c == '@') {
      out += "&#64;";
      continue;
    }
    if (std::string_view("\\`*_[]<>|~#$&").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace squall::report
