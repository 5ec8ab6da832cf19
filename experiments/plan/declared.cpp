#include "experiments/plan/declared.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "experiments/base/diagnostic.h"
#include "experiments/base/units.h"
#include "squall/v1/checks.pb.h"
#include "squall/v1/faults.pb.h"

namespace squall::plan {
namespace {

char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

template <typename T>
StatusOr<double> as_double(const StatusOr<T>& value) {
  if (!value.ok()) return value.status();
  return static_cast<double>(*value);
}

/// Direction has no prefix, Signal has SIGNAL_: where all values bear the type's name, a plan does
/// not repeat it.
std::string prefix_of(const EnumDescriptor& type) {
  std::string prefix;
  for (const char c : type.name()) {
    if (c >= 'A' && c <= 'Z' && !prefix.empty()) prefix += '_';
    prefix += upper(c);
  }
  prefix += '_';
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->name().rfind(prefix, 0) != 0) return "";
  }
  return prefix;
}

std::optional<Problem> bad_host_port(std::string_view text) {
  const std::string hint = "write host:port, such as 127.0.0.1:5432 or [::1]:5432";
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || text.back() == ']') {
    return Problem{fmt::format("\"{}\" has no port", text), hint};
  }
  const std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (host.empty() || (!bracketed && host.find_first_of(":[]") != std::string_view::npos)) {
    return Problem{host.empty() ? fmt::format("\"{}\" has no host", text)
                                : fmt::format("\"{}\" is not host:port", text),
                   hint};
  }
  if (host.find_first_of("/@?# \t") != std::string_view::npos) {
    return Problem{fmt::format("\"{}\" is not host:port", text), hint};
  }
  const auto port = parse_count(text.substr(colon + 1));
  if (!port.ok() || *port < 1 || *port > 65535) {
    return Problem{fmt::format("\"{}\" is not a port", text.substr(colon + 1)),
                   "write a number from 1 to 65535"};
  }
  return std::nullopt;
}

constexpr std::size_t kLongestHostName = 253;

/// Labels of 1 to 63 bytes between dots, perhaps with one more at the end. Source: RFC 1123, 2.1;
/// underscores stand in names that are in use.
bool has_right_labels(std::string_view text) {
  constexpr std::size_t kLongestLabel = 63;
  std::string_view rest = text.ends_with('.') ? text.substr(0, text.size() - 1) : text;
  bool right = !rest.empty() && !rest.ends_with('.');
  while (right && !rest.empty()) {
    const std::string_view label = rest.substr(0, rest.find('.'));
    right = !label.empty() && label.size() <= kLongestLabel && label.front() != '-' &&
            label.back() != '-' && std::all_of(label.begin(), label.end(), [](char c) {
              return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '_';
            });
    rest = label.size() < rest.size() ? rest.substr(label.size() + 1) : std::string_view();
  }
  return right;
}

bool is_dotted_number(std::string_view text) {
  return text.find_first_not_of("0123456789.") == std::string_view::npos;
}

std::optional<Problem> too_long_for_a_name(std::string_view text) {
  if (text.size() <= kLongestHostName) return std::nullopt;
  return Problem{
      fmt::format("a host name has at most {} bytes, not {}", kLongestHostName, text.size()), ""};
}

std::optional<Problem> bad_host_name(std::string_view text, const FieldDescriptor& field) {
  if (auto problem = too_long_for_a_name(text)) return problem;
  if (!is_dotted_number(text) && has_right_labels(text)) return std::nullopt;
  const bool has_cidrs = field.containing_type()->FindFieldByName("cidrs") != nullptr;
  return Problem{fmt::format("\"{}\" is not a host name", text),
                 fmt::format("write a name such as db.internal{}",
                             has_cidrs ? "; addresses go into `cidrs`" : "")};
}

std::optional<Problem> bad_dns_pattern(std::string_view text) {
  if (text == "*") return std::nullopt;
  const std::string_view name = text.starts_with("*.") ? text.substr(2) : text;
  if (auto problem = too_long_for_a_name(name)) return problem;
  const std::string hint = "write a name such as api.example.com, \"*.internal\", or \"*\"";
  if (name.find('*') != std::string_view::npos) {
    return Problem{fmt::format("\"{}\" has a `*` where none can stand", text), hint};
  }
  if (is_dotted_number(name)) {
    return Problem{fmt::format("\"{}\" is an address, which nobody looks up", text), hint};
  }
  if (has_right_labels(name)) return std::nullopt;
  return Problem{fmt::format("\"{}\" is not a name, nor a pattern of names", text), hint};
}

std::optional<Problem> bad_ip_address(std::string_view text) {
  const std::string address(text);
  in6_addr parsed{};
  if (::inet_pton(AF_INET, address.c_str(), &parsed) == 1 ||
      ::inet_pton(AF_INET6, address.c_str(), &parsed) == 1) {
    return std::nullopt;
  }
  return Problem{fmt::format("\"{}\" is not an address", text),
                 "write one such as 10.9.9.9 or \"2001:db8::9\""};
}

/// From the root, every part of it a name.
bool is_whole_path(std::string_view text) {
  const std::string path = fmt::format("{}/", text);
  return text[0] == '/' && path.find("//") == std::string::npos &&
         path.find("/../") == std::string::npos && path.find("/./") == std::string::npos;
}

std::optional<Problem> bad_path(std::string_view text) {
  if (text == "/" || is_whole_path(text)) return std::nullopt;
  return Problem{fmt::format("\"{}\" is not a whole path", text),
                 "write it from the root, without . and .., such as /var/lib/shop"};
}

std::optional<Problem> bad_data_path(std::string_view text) {
  if (auto problem = bad_path(text)) return problem;
  const std::string path = fmt::format("{}/", text);
  for (const std::string_view kernels : {"/proc", "/sys", "/dev"}) {
    if (!path.starts_with(fmt::format("{}/", kernels))) continue;
    return Problem{fmt::format("\"{}\" is the kernel's own: below {} are no files", text, kernels),
                   "write a directory on a file system, such as /var/lib/shop"};
  }
  return std::nullopt;
}

/// A wrong pattern would only be found out on the node, and one that matches the empty text would
/// match everything.
std::optional<Problem> bad_regex(std::string_view text) {
  RE2::Options options;
  options.set_log_errors(false);
  const RE2 pattern(re2::StringPiece(text.data(), text.size()), options);
  if (!pattern.ok()) {
    return Problem{fmt::format("\"{}\" is not a pattern: {}", text, pattern.error()),
                   "write a regular expression in RE2's syntax"};
  }
  if (!RE2::PartialMatch("", pattern)) return std::nullopt;
  return Problem{fmt::format("\"{}\" matches everything", text),
                 "write a pattern that some texts do not match"};
}

std::optional<Problem> bad_user(std::string_view text) {
  // useradd(8), "CAVEATS", and what directories allow beside it.
  constexpr std::size_t kLongestUser = 256;
  if (text.size() <= kLongestUser && text.find_first_of("/: \t\r\n") == text.npos &&
      text[0] != '-') {
    return std::nullopt;
  }
  return Problem{fmt::format("\"{}\" is not a user", text), "write a name or a uid"};
}

std::optional<Problem> bad_container(std::string_view text) {
  constexpr std::size_t kShortest = 12;  // what `docker ps` shows
  constexpr std::size_t kWhole = 64;
  if (text.size() >= kShortest && text.size() <= kWhole &&
      text.find_first_not_of("0123456789abcdef") == text.npos) {
    return std::nullopt;
  }
  return Problem{fmt::format("\"{}\" is not a container's id", text),
                 "write at least its first 12 digits, such as 4f5a1c0b9d3e"};
}

std::optional<Problem> bad_cgroup_path(std::string_view text) {
  if (is_whole_path(text)) return std::nullopt;
  return Problem{fmt::format("\"{}\" is not the path of a control group", text),
                 "write it from the root, such as /system.slice/nginx.service"};
}

/// The URL with stars for who logs in, in words about it.
std::string without_login(std::string_view url) {
  std::string shown(url);
  const auto scheme = shown.find("://");
  const auto at = shown.rfind('@');
  if (at == std::string::npos) return shown;
  for (auto i = scheme == std::string::npos ? 0 : scheme + 3; i < at; ++i) shown[i] = '*';
  return shown;
}

std::optional<Problem> bad_url(std::string_view text) {
  const auto end = text.find("://");
  if (end == std::string_view::npos) {
    return Problem{fmt::format("\"{}\" is not a URL", without_login(text)),
                   "write http://host:port/path"};
  }
  std::string scheme(text.substr(0, end));
  std::transform(scheme.begin(), scheme.end(), scheme.begin(), lower);
  if (scheme != "http" && scheme != "https") {
    return Problem{fmt::format("\"{}\" is not a scheme that can be asked", scheme),
                   "write http:// or https://"};
  }
  for (const char c : text) {
    if (static_cast<unsigned char>(c) <= ' ') {
      return Problem{"a URL has no blanks", "write %20 for a blank"};
    }
  }
  std::string_view host = text.substr(end + 3);
  host = host.substr(0, host.find_first_of("/?#"));
  if (const auto at = host.rfind('@'); at != std::string_view::npos) host = host.substr(at + 1);
  if (host.empty() || host[0] == ':') {
    return Problem{fmt::format("\"{}\" has no host", without_login(text)),
                   "write http://host:port/path"};
  }
  const auto bracket = host.rfind(']');
  const auto colon = host.find(':', bracket == std::string_view::npos ? 0 : bracket);
  if (colon != std::string_view::npos) return bad_host_port(host);
  return std::nullopt;
}

/// Nothing of what could be a part of a password is repeated. Source: PostgreSQL's documentation,
/// "Connection Strings" and "Parameter Key Words".
class PostgresUrl {
 public:
  static std::optional<Problem> bad(std::string_view text) {
    const std::string hint = "write postgresql://user@host:port/database";
    if (!text.starts_with("postgresql://") && !text.starts_with("postgres://")) {
      const bool is_other = text.find("://") != text.npos;
      return Problem{is_other ? fmt::format("\"{}\" is not the scheme of a PostgreSQL URL",
                                            text.substr(0, text.find("://")))
                              : "this is not a PostgreSQL URL",
                     hint};
    }
    for (std::size_t at = 0; at < text.size(); ++at) {
      if (static_cast<unsigned char>(text[at]) <= ' ') {
        return Problem{"a URL has no blanks", "write %20 for a blank"};
      }
      if (text[at] == '%' && !is_hex(text.substr(at + 1, 2))) {
        return Problem{"a % stands before what are not two hexadecimal digits",
                       "write %25 for a %"};
      }
    }
    const std::string_view rest = text.substr(text.find("://") + 3);
    const std::string_view servers = rest.substr(0, rest.find_first_of("/?"));
    if (auto problem = bad_servers(servers.substr(user_length(servers)))) return problem;
    const auto query = rest.find('?');
    return query == rest.npos ? std::nullopt : bad_parameters(rest.substr(query + 1));
  }

  static bool carries_password(std::string_view text) {
    if (text.find("password=") != text.npos) return true;
    const auto begin = text.find("://");
    if (begin == text.npos) return false;
    const std::string_view rest = text.substr(begin + 3, text.find('?') - begin - 3);
    const auto at = rest.rfind('@');
    return at != rest.npos && rest.substr(0, at).find(':') != rest.npos;
  }

 private:
  static bool is_hex(std::string_view digits) {
    return digits.size() == 2 && digits != "00" &&
           digits.find_first_not_of("0123456789abcdefABCDEF") == digits.npos;
  }

  static std::size_t user_length(std::string_view servers) {
    const auto at = servers.find('@');
    return at == servers.npos ? 0 : at + 1;
  }

  static std::optional<Problem> bad_port(std::string_view text) {
    const auto port = parse_count(text);
    if (port.ok() && *port >= 1 && *port <= 65535) return std::nullopt;
    return Problem{"what stands for the port is none",
                   "write a number from 1 to 65535; in a password, %2F for a / and %3F for a ?"};
  }

  static std::optional<Problem> bad_servers(std::string_view servers) {
    if (servers.find('@') != servers.npos) {
      return Problem{"a PostgreSQL URL has one @", "write %40 for one in a name or a password"};
    }
    while (!servers.empty()) {
      const std::string_view server = servers.substr(0, servers.find(','));
      const auto bracket = server.rfind(']');
      if (server.starts_with('[') && bracket == server.npos) {
        return Problem{"an IPv6 address stands in brackets", "write postgresql://[::1]:5432/shop"};
      }
      const auto colon = server.find(':', bracket == server.npos ? 0 : bracket);
      if (colon != server.npos) {
        if (auto problem = bad_port(server.substr(colon + 1))) return problem;
      }
      servers.remove_prefix(std::min(server.size() + 1, servers.size()));
    }
    return std::nullopt;
  }

  static std::optional<Problem> bad_parameters(std::string_view parameters) {
    static const std::vector<std::string> kKnown = {"application_name",
                                                    "channel_binding",
                                                    "client_encoding",
                                                    "connect_timeout",
                                                    "dbname",
                                                    "fallback_application_name",
                                                    "gssdelegation",
                                                    "gssencmode",
                                                    "gsslib",
                                                    "host",
                                                    "hostaddr",
                                                    "keepalives",
                                                    "keepalives_count",
                                                    "keepalives_idle",
                                                    "keepalives_interval",
                                                    "krbsrvname",
                                                    "load_balance_hosts",
                                                    "options",
                                                    "passfile",
                                                    "password",
                                                    "port",
                                                    "replication",
                                                    "require_auth",
                                                    "requirepeer",
                                                    "ssl",
                                                    "ssl_max_protocol_version",
                                                    "ssl_min_protocol_version",
                                                    "sslcert",
                                                    "sslcertmode",
                                                    "sslcompression",
                                                    "sslcrl",
                                                    "sslcrldir",
                                                    "sslkey",
                                                    "sslmode",
                                                    "sslpassword",
                                                    "sslrootcert",
                                                    "sslsni",
                                                    "target_session_attrs",
                                                    "tcp_user_timeout",
                                                    "user"};
    static const std::vector<std::string> kModes = {"disable", "allow",     "prefer",
                                                    "require", "verify-ca", "verify-full"};
    while (!parameters.empty()) {
      const std::string_view parameter = parameters.substr(0, parameters.find('&'));
      parameters.remove_prefix(std::min(parameter.size() + 1, parameters.size()));
      const auto equals = parameter.find('=');
      if (equals == parameter.npos || equals == 0) {
        return Problem{"a parameter of the URL has no value",
                       "write ?name=value&name=value; %26 for a & in a value"};
      }
      const std::string name(parameter.substr(0, equals));
      const std::string value(parameter.substr(equals + 1));
      if (std::find(kKnown.begin(), kKnown.end(), name) == kKnown.end()) {
        const std::string near = nearest(name, kKnown);
        return Problem{fmt::format("a PostgreSQL URL has no parameter \"{}\"", name),
                       name == "service" ? "name the server itself"
                       : near.empty()    ? ""
                                         : fmt::format("did you mean \"{}\"?", near)};
      }
      if (name == "sslmode" && std::find(kModes.begin(), kModes.end(), value) == kModes.end()) {
        return Problem{fmt::format("unknown sslmode \"{}\"", value),
                       fmt::format("it may be {}", one_of(kModes))};
      }
      // One for all, or one for each server.
      const bool is_one = name == "port" && value.find(',') == value.npos;
      if (is_one) {
        if (auto problem = bad_port(value)) return problem;
      }
    }
    return std::nullopt;
  }
};

std::string upper_case(std::string_view text) {
  std::string all(text);
  std::transform(all.begin(), all.end(), all.begin(), upper);
  return all;
}

/// What a check asks for, it asks for again and again, before and after a fault: that must not wipe
/// a server, stop it, set it up anew, or take the connection for something else. Writing a key is
/// the plan's own affair.
std::optional<Problem> bad_redis_command(const v1::Redis& redis) {
  if (redis.command().empty()) return std::nullopt;
  constexpr std::string_view kHint = "write a command that asks, such as [LLEN, orders]";
  const std::string name = upper_case(redis.command(0));
  const std::string second = redis.command_size() > 1 ? upper_case(redis.command(1)) : "";
  if (name.empty()) return Problem{"command names no command", std::string(kHint)};
  if (name == "AUTH" || name == "HELLO") {
    return Problem{fmt::format("a check does not send {}, which may carry a password", name),
                   "write `user`, and give the password in REDISCLI_AUTH"};
  }
  constexpr std::array<std::string_view, 27> kNever = {
      "BGREWRITEAOF", "BGSAVE",   "DEBUG",      "EVAL",      "EVALSHA", "EXEC",    "FAILOVER",
      "FCALL",        "FLUSHALL", "FLUSHDB",    "MIGRATE",   "MONITOR", "MULTI",   "PSUBSCRIBE",
      "PSYNC",        "QUIT",     "REPLCONF",   "REPLICAOF", "RESET",   "RESTORE", "SAVE",
      "SHUTDOWN",     "SLAVEOF",  "SSUBSCRIBE", "SUBSCRIBE", "SWAPDB",  "SYNC"};
  if (std::find(kNever.begin(), kNever.end(), name) != kNever.end()) {
    return Problem{fmt::format("a check does not send {}", name), std::string(kHint)};
  }
  static const std::map<std::string, std::vector<std::string>> kAsking = {
      {"ACL", {"CAT", "GETUSER", "LIST", "USERS", "WHOAMI"}},
      {"CLIENT", {"GETNAME", "ID", "INFO", "LIST"}},
      {"CLUSTER",
       {"COUNTKEYSINSLOT", "INFO", "KEYSLOT", "LINKS", "MYID", "NODES", "SHARDS", "SLOTS"}},
      {"CONFIG", {"GET"}},
      {"FUNCTION", {"LIST", "STATS"}},
      {"LATENCY", {"DOCTOR", "GRAPH", "HISTOGRAM", "HISTORY", "LATEST"}},
      {"MEMORY", {"DOCTOR", "STATS", "USAGE"}},
      {"MODULE", {"LIST"}},
      {"SCRIPT", {"EXISTS"}},
      {"SLOWLOG", {"GET", "LEN"}}};
  const auto asking = kAsking.find(name);
  if (asking == kAsking.end() ||
      std::find(asking->second.begin(), asking->second.end(), second) != asking->second.end()) {
    return std::nullopt;
  }
  return Problem{second.empty() ? fmt::format("{} of what?", name)
                                : fmt::format("a check does not send {} {}", name, second),
                 fmt::format("write {} {}", name, one_of(asking->second))};
}

}  // namespace

const v1::FieldRules& rules_of(const FieldDescriptor& field) {
  return field.options().GetExtension(v1::rules);
}

const v1::MessageRules& rules_of(const Descriptor& message) {
  return message.options().GetExtension(v1::message_rules);
}

const v1::OneofRules& rules_of(const OneofDescriptor& choice) {
  return choice.options().GetExtension(v1::oneof_rules);
}

StatusOr<double> parse_number(std::string_view text, v1::Unit unit, bool may_be_negative) {
  if (may_be_negative && text.starts_with('-')) {
    const auto below = parse_number(text.substr(1), unit, false);
    return below.ok() ? StatusOr<double>(-*below) : below.status();
  }
  switch (unit) {
    case v1::DURATION: {
      const auto value = parse_duration(text);
      if (!value.ok()) return value.status();
      return static_cast<double>(value->count());
    }
    case v1::PERCENT:
      return parse_percent(text);
    case v1::BYTES:
      return as_double(parse_bytes(text));
    case v1::RATE:
      return as_double(parse_rate(text));
    case v1::PER_SECOND:
      return parse_per_second(text);
    default:
      return as_double(parse_count(text));
  }
}

std::string format_number(double number, v1::Unit unit) {
  constexpr double kLargest = 9.2e18;  // below what an int64 holds
  const double held = std::clamp(number, -kLargest, kLargest);
  switch (unit) {
    case v1::DURATION:
      return format_duration(Duration(static_cast<std::int64_t>(held)));
    case v1::PERCENT:
      return format_percent(number);
    case v1::BYTES:
      return format_bytes(static_cast<std::uint64_t>(std::max(held, 0.0)));
    case v1::RATE:
      return format_rate(static_cast<std::uint64_t>(std::max(held, 0.0)));
    case v1::PER_SECOND:
      return format_per_second(number);
    default:
      return fmt::format("{}", number);
  }
}

Problem problem_of(const Status& status) {
  const std::string message = message_of(status);
  for (const std::string_view gap : {"; write ", "? write "}) {
    const auto at = message.rfind(gap);
    if (at == std::string::npos) continue;
    // The question mark belongs to the summary, the semicolon to neither.
    return {message.substr(0, at + (gap[0] == '?' ? 1 : 0)), message.substr(at + 2)};
  }
  return {message, ""};
}

std::optional<Problem> out_of_bounds(double number, const FieldDescriptor& field) {
  const v1::FieldRules& rules = rules_of(field);
  if (!std::isfinite(number)) return Problem{"is not a number", ""};
  if (rules.unit() == v1::DURATION && number < 0) return Problem{"is negative", ""};
  if (rules.min().empty() && rules.max().empty()) return std::nullopt;
  const auto beyond = [&](const std::string& bound, bool below) -> bool {
    if (bound.empty()) return false;
    const auto limit = parse_number(bound, rules.unit(), true);
    return limit.ok() && (below ? number < *limit : number > *limit);
  };
  const bool below = beyond(rules.min(), true);
  if (!below && !beyond(rules.max(), false)) return std::nullopt;
  return Problem{
      fmt::format("{} is too {}", format_number(number, rules.unit()), below ? "small" : "large"),
      fmt::format("write {}", bounds_in_words(field))};
}

std::optional<Problem> misshapen(std::string_view text, const FieldDescriptor& field) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\t' && c != '\n' && c != '\r') || byte == 0x7f) {
      return Problem{fmt::format("the control character \\x{:02x} cannot stand here", byte), ""};
    }
  }
  if (text.empty()) {
    // An empty field is as good as none; an empty one of several is not.
    if (!field.is_repeated() || rules_of(field).text() == v1::TEXT_ANY) return std::nullopt;
    return Problem{"an empty text cannot stand here", ""};
  }
  constexpr std::size_t kLongestName = 15;  // IFNAMSIZ and TASK_COMM_LEN are both 16, with a NUL
  switch (rules_of(field).text()) {
    case v1::INTERFACE:
      if (text.size() > kLongestName) {
        return Problem{fmt::format("an interface's name has at most {} bytes; \"{}\" has {}",
                                   kLongestName, text, text.size()),
                       ""};
      }
      if (text == "." || text == ".." ||
          text.find_first_of("/: \t\r\n") != std::string_view::npos) {
        return Problem{fmt::format("\"{}\" cannot be an interface's name", text),
                       "write it as `ip link` shows it, such as eth0"};
      }
      return std::nullopt;
    case v1::COMMAND_NAME:
      if (text.size() > kLongestName) {
        return Problem{fmt::format("the kernel keeps {} bytes of a program's name; \"{}\" has {}",
                                   kLongestName, text, text.size()),
                       fmt::format("write \"{}\"", text.substr(0, kLongestName))};
      }
      return std::nullopt;
    case v1::HOST_NAME:
      return bad_host_name(text, field);
    case v1::DNS_PATTERN:
      return bad_dns_pattern(text);
    case v1::IP_ADDRESS:
      return bad_ip_address(text);
    case v1::CGROUP_PATH:
      return bad_cgroup_path(text);
    case v1::ABSOLUTE_PATH:
      return bad_path(text);
    case v1::DATA_PATH:
      return bad_data_path(text);
    case v1::REGEX:
      return bad_regex(text);
    case v1::USER:
      return bad_user(text);
    case v1::CONTAINER:
      return bad_container(text);
    case v1::UNIT_NAME:
      // systemd.unit(5), "Unit files": a name, perhaps an instance, and a type.
      if (text.find('.') == std::string_view::npos || text.find_first_of("/ \t\r\n") != text.npos) {
        return Problem{fmt::format("\"{}\" is not a unit's name", text),
                       "write it with its type, such as nginx.service"};
      }
      return std::nullopt;
    case v1::NETNS_NAME:
      if (text.find_first_of(" \t\r\n") != text.npos ||
          (text[0] != '/' && (text.find('/') != text.npos || text == "." || text == ".."))) {
        return Problem{fmt::format("\"{}\" cannot be a network namespace", text),
                       "write a name as `ip netns` shows it, a whole path, or a pid"};
      }
      return std::nullopt;
    case v1::HOST_PORT:
      return bad_host_port(text);
    case v1::NODE_ADDRESS:
      if (text.rfind("unix:", 0) == 0) {
        if (text.size() > 5 && text[5] == '/') return std::nullopt;
        return Problem{fmt::format("\"{}\" is not a whole path", text), "write unix:/path"};
      }
      return bad_host_port(text);
    case v1::HTTP_URL:
      return bad_url(text);
    case v1::JSON_POINTER:
      if (text.front() == '/') return std::nullopt;
      return Problem{fmt::format("\"{}\" is not a JSON Pointer", text),
                     fmt::format("write /{}", text)};
    case v1::POSTGRES_URL:
      return PostgresUrl::bad(text);
    case v1::HTTP_METHOD:
      for (const char c : text) {
        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-')) {
          return Problem{fmt::format("\"{}\" is not a method", text), "write GET, HEAD or POST"};
        }
      }
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

std::optional<Problem> misshapen_key(std::string_view key, const FieldDescriptor& map) {
  if (key.empty()) return Problem{"an empty name", ""};
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  constexpr std::size_t kLongest = 64;
  const v1::TextForm form = rules_of(map).text();
  if (form == v1::NAME || form == v1::HEADER) {
    const std::string_view others =
        form == v1::NAME ? "._-" : "!#$%&'*+-.^_`|~";  // RFC 9110, 5.6.2
    for (const char c : key) {
      if (is_letter(c) || others.find(c) != std::string_view::npos) continue;
      return Problem{fmt::format("\"{}\" cannot be a name here", key),
                     fmt::format("write it with letters, digits and {}",
                                 form == v1::NAME ? "'.', '_' or '-'" : "'-'")};
    }
  }
  if (form == v1::NAME && key.size() > kLongest) {
    return Problem{fmt::format("a name has at most {} characters", kLongest), ""};
  }
  return misshapen(key, *map.message_type()->map_key());
}

std::optional<Problem> misshapen_value(std::string_view value, const FieldDescriptor& map) {
  if (rules_of(map).text() == v1::HEADER && value.find_first_of("\r\n") != std::string_view::npos) {
    return Problem{"a header has one line", ""};
  }
  return misshapen(value, *map.message_type()->map_value());
}

std::optional<Problem> doubtful(std::string_view text, const FieldDescriptor& field) {
  if (rules_of(field).text() == v1::POSTGRES_URL) {
    if (!PostgresUrl::carries_password(text)) return std::nullopt;
    return Problem{"the URL carries a password, which the event log would keep",
                   "leave it to PGPASSFILE (~/.pgpass) or PGPASSWORD"};
  }
  if (rules_of(field).text() != v1::HTTP_URL) return std::nullopt;
  // Of what is no URL at all it may still be a part.
  const auto scheme = text.find("://");
  std::string_view host = text.substr(scheme == std::string_view::npos ? 0 : scheme + 3);
  host = host.substr(0, host.find_first_of("/?#"));
  if (host.find('@') == std::string_view::npos) return std::nullopt;
  return Problem{"the URL carries credentials, which the event log would keep",
                 "send them as a header, or ask an address that needs none"};
}

std::string bounds_in_words(const FieldDescriptor& field) {
  const v1::FieldRules& rules = rules_of(field);
  if (!rules.min().empty() && !rules.max().empty()) {
    return fmt::format("{} to {}", rules.min(), rules.max());
  }
  if (!rules.min().empty()) return fmt::format("at least {}", rules.min());
  if (!rules.max().empty()) return fmt::format("at most {}", rules.max());
  return "";
}

std::string spelling(const EnumValueDescriptor& value) {
  const std::string prefix = prefix_of(*value.type());
  if (!prefix.empty()) return value.name().substr(prefix.size());
  std::string word = value.name();
  std::transform(word.begin(), word.end(), word.begin(), lower);
  return word;
}

std::vector<std::string> spellings(const EnumDescriptor& type) {
  std::vector<std::string> words;
  words.reserve(static_cast<std::size_t>(type.value_count()));
  for (int i = 0; i < type.value_count(); ++i) words.push_back(spelling(*type.value(i)));
  return words;
}

const EnumValueDescriptor* value_named(const EnumDescriptor& type, std::string_view word) {
  for (int i = 0; i < type.value_count(); ++i) {
    // Most values end otherwise; their spelling need not be made.
    const std::string& name = type.value(i)->name();
    if (name.size() < word.size() ||
        upper(name.back()) != upper(word.empty() ? '\0' : word.back())) {
      continue;
    }
    const std::string known = spelling(*type.value(i));
    const bool same = std::equal(known.begin(), known.end(), word.begin(), word.end(),
                                 [](char a, char b) { return upper(a) == upper(b); });
    if (same) return type.value(i);
  }
  return nullptr;
}

std::vector<std::string> choices(const OneofDescriptor& choice) {
  std::vector<std::string> words;
  words.reserve(static_cast<std::size_t>(choice.field_count()));
  for (int i = 0; i < choice.field_count(); ++i) words.push_back(choice.field(i)->name());
  return words;
}

std::string one_of(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? " or " : ", ";
    text += words[i];
  }
  return text;
}

bool is_fault_kind(const Descriptor& type) {
  const OneofDescriptor& kinds = *v1::Fault::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < kinds.field_count(); ++i) {
    if (kinds.field(i)->message_type() == &type) return true;
  }
  return false;
}

bool is_one_number(const FieldDescriptor& field) {
  if (field.is_repeated()) return false;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return true;
    default:
      return false;
  }
}

std::optional<Problem> bad_end(double number, const FieldDescriptor& field) {
  // A line that carries nothing is no beginning of a slow one.
  if (number == 0 && rules_of(field).unit() != v1::RATE) return std::nullopt;
  return out_of_bounds(number, field);
}

std::optional<Problem> bad_search(const v1::Fault& fault) {
  if (!fault.has_search()) return std::nullopt;
  const v1::Search& search = fault.search();
  const FieldDescriptor* field = field_of(fault, search.field());
  if (field == nullptr || !is_one_number(*field)) {
    return Problem{fmt::format("{} cannot be looked for", search.field()), ""};
  }
  if (!fault.ramps().empty()) {
    return Problem{"a number is looked for while another changes", "give the other one value"};
  }
  for (const double end : {search.from(), search.to()}) {
    if (auto problem = bad_end(end, *field)) {
      problem->summary = fmt::format("{} {}", search.field(), problem->summary);
      return problem;
    }
  }
  const double range = std::abs(search.to() - search.from());
  if (!(search.resolution() > 0) || search.resolution() > range) {
    return Problem{
        fmt::format("the resolution does not divide what {} is looked for in", search.field()),
        fmt::format("write at most {}", format_number(range, rules_of(*field).unit()))};
  }
  constexpr double kFinest = 1e6;
  if (range / search.resolution() > kFinest) {
    return Problem{"the resolution is finer than a millionth of the range", "write a larger one"};
  }
  return std::nullopt;
}

std::optional<Problem> bad_ramps(const v1::Fault& fault) {
  for (int n = 0; n < fault.ramps_size(); ++n) {
    const v1::Ramp& ramp = fault.ramps(n);
    const FieldDescriptor* field = field_of(fault, ramp.field());
    if (field == nullptr || !rules_of(*field).ramps()) {
      return Problem{fmt::format("{} cannot change while the fault lasts", ramp.field()), ""};
    }
    const bool again =
        std::any_of(fault.ramps().begin(), fault.ramps().begin() + n,
                    [&](const v1::Ramp& other) { return other.field() == ramp.field(); });
    if (again) return Problem{fmt::format("two ramps of {}", ramp.field()), ""};
    if (fault.cpu().has_ramp() && ramp.field() == "load") {
      return Problem{"load rises in two ways",
                     "it says itself from where it goes to where: leave `ramp` out"};
    }
    for (const double end : {ramp.from(), ramp.to()}) {
      if (auto problem = bad_end(end, *field)) {
        problem->summary = fmt::format("{} {}", ramp.field(), problem->summary);
        return problem;
      }
    }
    if (number_in(kind_in(fault), *field) < std::max(ramp.from(), ramp.to())) {
      return Problem{fmt::format("{} is less than where its ramp goes", ramp.field()), ""};
    }
    if (ramp.over() <= 0)
      return Problem{fmt::format("the ramp of {} takes no time", ramp.field()), ""};
    if (fault.has_for_() && ramp.over() > fault.for_()) {
      return Problem{
          fmt::format("the ramp of {} takes {}, and the fault ends after {}", ramp.field(),
                      format_number(static_cast<double>(ramp.over()), v1::DURATION),
                      format_number(static_cast<double>(fault.for_()), v1::DURATION)),
          "write a longer `for`, or a shorter `over`"};
    }
  }
  return std::nullopt;
}

Duration time_until_done(const v1::Fault& fault) {
  if (kind_of(fault) == nullptr || fault.has_for_()) return Duration::zero();
  const Message& asked = kind_in(fault);
  std::vector<const FieldDescriptor*> given;
  asked.GetReflection()->ListFields(asked, &given);
  Duration longest = Duration::zero();
  for (const FieldDescriptor* field : given) {
    if (!rules_of(*field).takes_time()) continue;
    longest = std::max(longest, Duration(asked.GetReflection()->GetInt64(asked, field)));
  }
  return longest;
}

std::string noun_of(const Descriptor& message) {
  std::string noun;
  for (const char c : message.name()) {
    if (lower(c) != c && !noun.empty()) noun += ' ';
    noun += lower(c);
  }
  return noun;
}

bool can_be_bounded(const FieldDescriptor& field, int levels) {
  if (field.is_repeated() || rules_of(field).wire_only()) return false;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
    case FieldDescriptor::CPPTYPE_BOOL:
    case FieldDescriptor::CPPTYPE_ENUM:
      return false;
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
    default:
      return true;
  }
  const Descriptor& type = *field.message_type();
  if (levels == 0 || rules_of(type).form() != v1::FORM_NONE) return false;
  for (int i = 0; i < type.field_count(); ++i) {
    if (can_be_bounded(*type.field(i), levels - 1)) return true;
  }
  return false;
}

namespace {

/// Whether the field that a dotted path names has the value, as a plan writes it; any, if that is
/// empty.
bool has_value(const Message& message, std::string_view path, const std::string& value) {
  const std::size_t dot = path.find('.');
  const FieldDescriptor* field =
      message.GetDescriptor()->FindFieldByName(std::string(path.substr(0, dot)));
  if (field == nullptr || field->is_repeated()) return false;
  const auto& reflection = *message.GetReflection();
  if (dot != std::string_view::npos) {
    return reflection.HasField(message, field) &&
           has_value(reflection.GetMessage(message, field), path.substr(dot + 1), value);
  }
  if (value.empty()) return reflection.HasField(message, field);
  if (field->cpp_type() != FieldDescriptor::CPPTYPE_ENUM) return false;
  if (!reflection.HasField(message, field) && !rules_of(*field).default_value().empty()) {
    return rules_of(*field).default_value() == value;
  }
  return spelling(*reflection.GetEnum(message, field)) == value;
}

}  // namespace

bool can_contradict(const Descriptor& type) {
  if (&type == v1::Fault::descriptor() || rules_of(type).any_of_size() > 0) return true;
  for (int i = 0; i < type.field_count(); ++i) {
    const v1::FieldRules& rules = rules_of(*type.field(i));
    if (!rules.needs().empty() || rules.excludes_size() > 0 || rules.conflicts_size() > 0 ||
        !rules.shares_with().empty() || !rules.not_over().empty()) {
      return true;
    }
  }
  return false;
}

std::vector<Finding> contradictions(const Message& message, std::string_view called) {
  std::vector<Finding> found;
  const Descriptor& type = *message.GetDescriptor();
  const auto& reflection = *message.GetReflection();
  const auto given = [&](const FieldDescriptor& field) {
    return field.is_repeated() ? reflection.FieldSize(message, &field) > 0
                               : reflection.HasField(message, &field);
  };

  const auto& any_of = rules_of(type).any_of();
  const bool some = std::any_of(any_of.begin(), any_of.end(), [&](const std::string& name) {
    const FieldDescriptor* field = type.FindFieldByName(name);
    return field != nullptr && given(*field);
  });
  if (!some && !any_of.empty()) {
    const std::string& example = rules_of(type).example();
    found.push_back({"", fmt::format("{} needs {}", called, one_of({any_of.begin(), any_of.end()})),
                     example.empty() ? "" : fmt::format("write {}", example)});
  }

  std::vector<const FieldDescriptor*> written;
  reflection.ListFields(message, &written);
  for (const FieldDescriptor* each : written) {
    const FieldDescriptor& field = *each;
    const v1::FieldRules& rules = rules_of(field);
    if (!rules.needs().empty()) {
      const FieldDescriptor* other = type.FindFieldByName(rules.needs());
      if (other != nullptr && !given(*other)) {
        found.push_back({field.name(), fmt::format("{} without {}", field.name(), other->name()),
                         fmt::format("give a {} as well", other->name())});
        continue;
      }
    }
    for (const std::string& name : rules.excludes()) {
      const FieldDescriptor* other = type.FindFieldByName(name);
      if (other == nullptr || !given(*other)) continue;
      found.push_back({field.name(), fmt::format("{} beside {}", field.name(), other->name()),
                       "give one of them"});
      break;
    }
    for (const v1::Conflict& conflict : rules.conflicts()) {
      if (!has_value(message, field.name(), conflict.is()) ||
          !has_value(message, conflict.with(), conflict.value())) {
        continue;
      }
      found.push_back(
          {field.name(), fmt::format("{}: {}", field.name(), conflict.why()), conflict.hint()});
    }
    if (!rules.shares_with().empty()) {
      const FieldDescriptor* other = type.FindFieldByName(rules.shares_with());
      const double own = number_in(message, field);
      const double beside = other != nullptr && given(*other) ? number_in(message, *other) : 0;
      if (own + beside > 100) {
        found.push_back(
            {field.name(),
             fmt::format("{} and {} are {} together", field.name(), other->name(),
                         format_number(own + beside, v1::PERCENT)),
             fmt::format("write at most {}", format_number(100 - beside, v1::PERCENT))});
      }
    }
    if (!rules.not_over().empty()) {
      const FieldDescriptor* other = type.FindFieldByName(rules.not_over());
      if (other != nullptr && given(*other) &&
          number_in(message, field) > number_in(message, *other)) {
        const std::string most = format_number(number_in(message, *other), rules_of(*other).unit());
        found.push_back(
            {field.name(),
             fmt::format("{} is more than {}, which is {}", field.name(), other->name(), most),
             fmt::format("write at most {}", most)});
      }
    }
  }

  if (const auto* redis = google::protobuf::DynamicCastToGenerated<v1::Redis>(&message)) {
    if (auto problem = bad_redis_command(*redis)) {
      found.push_back({"command", std::move(problem->summary), std::move(problem->hint)});
    }
  }

  // The one rule about `for`: it stands beside the fault's kind, and whether it must is declared by
  // the kind.
  if (const auto* fault = google::protobuf::DynamicCastToGenerated<v1::Fault>(&message)) {
    if (const FieldDescriptor* kind = kind_of(*fault)) {
      const v1::MessageRules& rules = rules_of(*kind->message_type());
      const Message& asked = reflection.GetMessage(message, kind);
      const bool lasts =
          std::any_of(rules.lasting().begin(), rules.lasting().end(), [&](const std::string& name) {
            return asked.GetReflection()->HasField(asked,
                                                   kind->message_type()->FindFieldByName(name));
          });
      const bool at_once = rules.at_once() && !lasts;
      if (at_once && fault->has_for_()) {
        found.push_back({"for", fmt::format("{} is done at once and does not last", kind->name()),
                         rules.lasting().empty()
                             ? "leave `for` out"
                             : fmt::format("leave `for` out; only with {} it lasts",
                                           fmt::join(rules.lasting(), ", "))});
      } else if (!at_once && !fault->has_for_()) {
        found.push_back({kind->name(),
                         fmt::format("{} does not say how long it lasts", kind->name()),
                         fmt::format("write `for: 60s` beside `{}`", kind->name())});
      }
      if (fault->has_pulse() && at_once) {
        found.push_back({"pulse",
                         fmt::format("{} is done at once and cannot come and go", kind->name()),
                         "leave `pulse` out, or put the step into a `repeat`"});
      } else if (fault->has_pulse() && fault->has_for_() && fault->pulse().on() >= fault->for_()) {
        found.push_back(
            {"pulse",
             fmt::format("the fault lasts {}, and a pulse of it {}",
                         format_number(static_cast<double>(fault->for_()), v1::DURATION),
                         format_number(static_cast<double>(fault->pulse().on()), v1::DURATION)),
             "write a longer `for`, or a shorter `on`"});
      } else if (fault->has_pulse() && (fault->has_search() || fault->ramps_size() > 0)) {
        found.push_back({"pulse", "a fault that comes and goes, with a number that changes",
                         "give the number one value, or leave `pulse` out"});
      }
      if (fault->cpu().has_ramp() && fault->has_for_() && fault->cpu().ramp() > fault->for_()) {
        found.push_back(
            {"for",
             fmt::format("the ramp of cpu takes {}, and the fault ends after {}",
                         format_number(static_cast<double>(fault->cpu().ramp()), v1::DURATION),
                         format_number(static_cast<double>(fault->for_()), v1::DURATION)),
             "write a longer `for`, or a shorter `ramp`"});
      }
      written.clear();
      if (fault->has_for_()) asked.GetReflection()->ListFields(asked, &written);
      for (const FieldDescriptor* field : written) {
        if (!rules_of(*field).within_for() ||
            asked.GetReflection()->GetInt64(asked, field) < fault->for_()) {
          continue;
        }
        found.push_back(
            {"for",
             fmt::format("{} lasts no longer than its {}, which is {}", kind->name(), field->name(),
                         format_number(number_in(asked, *field), v1::DURATION)),
             "write a longer `for`"});
      }
    }
  }
  return found;
}

}  // namespace squall::plan
