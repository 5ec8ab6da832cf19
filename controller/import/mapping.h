/// \file
/// What the formats share: their quantities in the plan's spelling, tables of what maps where, and
/// the parts of a plan that another tool's experiment may lack.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "controller/import/draft.h"
#include "controller/import/source.h"
#include "experiments/base/clock.h"

namespace squall::importing {

/// From the source's spelling to the plan's. Nothing: it is not one. Empty: right, but it asks for
/// nothing, as a jitter of 0 does.
using Convert = std::optional<std::string> (*)(const std::string&);

std::optional<std::string> go_duration(const std::string& text);   ///< 1m30s, 100ms, 0
std::optional<std::string> milliseconds(const std::string& text);  ///< 3000
std::optional<std::string> seconds(const std::string& text);       ///< 60, 0.5
std::optional<std::string> iso_duration(const std::string& text);  ///< PT1M30S
std::optional<std::string> tc_time(const std::string& text);       ///< 100ms; 100 are microseconds
std::optional<std::string> percentage(const std::string& text);    ///< 25, 25%; 0 asks for nothing
std::optional<std::string> probability(const std::string& text);   ///< 0.25
std::optional<std::string> count(const std::string& text);         ///< 3; 0 asks for nothing
std::optional<std::string> tc_rate(const std::string& text);    ///< 1mbit; bps are bytes a second
std::optional<std::string> mesh_rate(const std::string& text);  ///< The same, powers of 1024
std::optional<std::string> decimal_size(const std::string& text);  ///< 256MB; K, M, G are of 1000
std::optional<std::string> binary_size(const std::string& text);   ///< 256M; K, M, G are of 1024
std::optional<std::string> mebibytes(const std::string& text);     ///< 512
std::optional<std::string> any_text(const std::string& text);      ///< As it is, if not empty

/// One line of a table: their field, our key, and how its value is spelled here.
struct Rule {
  std::string_view theirs;
  std::string_view ours;
  Convert convert;
  std::string_view wanted;      ///< What the value should have been: a duration.
  std::string_view needs = "";  ///< Means nothing without this key of ours.
};

/// Puts each field that is there under our key, and leaves with a reason what does not convert.
void put(Source& from, Draft& to, std::span<const Rule> rules);

/// One field. False: it is not there, or was left.
bool put(Source* field, Draft& to, std::string_view ours, Convert convert, std::string_view wanted);

/// What the fault cannot be without: the tool's own default where the field is not there, and also,
/// for a person to decide, where it is there and cannot be used.
void put_or(Source* field, Draft& to, std::string_view ours, Convert convert,
            std::string_view wanted, std::string_view otherwise);

/// What neither the fault nor the source can be without: a placeholder for a person to fill in.
void put_required(Source* field, Draft& to, std::string_view ours, Convert convert,
                  std::string_view wanted, std::string_view placeholder);

/// The field's text if it is there and converts; it counts as read then.
std::optional<std::string> taken(Source* field, Convert convert, std::string_view wanted);

/// The field's text without reading it; empty where there is none.
std::string text_of(Source* field);

/// Whether the field has this very text, and it is read then.
bool took(Source* field, std::string_view text);

/// The words of a list, or of a text that separates them by commas.
std::vector<std::string> listed(Source* field);

/// Puts addresses and host names into a match, as cidrs and hosts. What is neither is left.
void put_addresses(Source* field, Draft& fault, std::string_view match);

/// Puts ports and ranges of ports (8000-8010, 8000:8010) into a match.
void put_ports(Source* field, Draft& fault, std::string_view match);

/// tcp, udp or icmp; all and any ask for nothing.
void put_protocol(Source* field, Draft& fault, std::string_view match);

/// In small letters, those of ASCII.
std::string lower(std::string_view text);

/// For a pattern that is to match these very bytes.
std::string as_pattern(std::string_view text);

/// A signal as plans write it, from 9, KILL or SIGKILL.
std::optional<std::string> signal_name(const std::string& text);

/// Says how long a fault lasts; where the source does not, 60s with a note that this is to decide.
void put_for(Draft& step, const std::optional<std::string>& duration);

/// A plan in the making.
class Experiment {
 public:
  using Labels = std::map<std::string, std::string>;

  Draft head;                          ///< Its notes stand on top of the plan.
  Draft title = Draft::text("");       ///< Without one, the plan is called after its source.
  Draft hypothesis = Draft::text("");  ///< Left out where it is empty.
  Draft tags = Draft::list();
  Draft steady_state = Draft::list();  ///< Empty: an example for a person to fill in.
  Draft method = Draft::list();

  /// What `on` is for nodes that the source only describes. Each such description is given nodes to
  /// fill in, `at_least` of them.
  Draft described(const Labels& labels, std::size_t at_least = 1);

  /// A node that the source names. It may bear notes until the next one is added.
  Draft& add_node(const std::string& name, const std::string& address, const Labels& labels);

  /// The name of the node that was added last.
  const std::string& last_node() const { return nodes_.entries().back().key; }

  /// The whole, in the plan's order; this is empty then.
  Draft finish(std::string_view called);

 private:
  struct Described {
    Labels labels;
    std::size_t count;
  };
  std::vector<Described> described_;
  Draft nodes_ = Draft::map();
};

}  // namespace squall::importing
