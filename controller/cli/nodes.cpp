// The command that tells what nodes are and what they hold: nodes.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "controller/cli/commands.h"
#include "controller/cli/outside.h"
#include "controller/fleet/fleet.h"
#include "experiments/base/diagnostic.h"
#include "experiments/base/units.h"

namespace squall::cli {
namespace {

namespace asio = boost::asio;

/// One node as `squall nodes` tells it.
struct Line {
  std::string name;
  std::string address;
  Status reached;
  v1::Description description;
};

asio::awaitable<void> reach(fleet::Node& node, Line& line) {
  auto described = co_await node.connect();
  line.address = node.address();
  line.reached = described.status();
  if (described.ok()) line.description = *std::move(described);
  co_await node.close();
}

void reach_all(const std::vector<std::unique_ptr<fleet::Node>>& nodes, std::vector<Line>& lines) {
  asio::io_context loop{1};
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    asio::co_spawn(loop, reach(*nodes[n], lines[n]), [&lines, n](const std::exception_ptr& thrown) {
      if (thrown) lines[n].reached = error(StatusCode::kInternal, "a fault of squall's own");
    });
  }
  loop.run();
}

/// Who listens on this machine: its squalld, and those that runs brought along.
std::vector<Line> here(const std::string& tls_dir) {
  Where where;
  where.here = true;
  add_here(where);
  std::vector<Line> lines;
  for (const std::string& address : where.addresses) {
    lines.push_back({"local", address, {}, {}});
  }
  const auto describe = [&lines](fleet::Latch& latch, Outcome& outcome) -> asio::awaitable<void> {
    auto described = co_await latch.describe();
    outcome.status = described.status();
    const auto line = std::find_if(lines.begin(), lines.end(), [&outcome](const Line& one) {
      return one.address == outcome.address;
    });
    line->reached = outcome.status;
    if (described.ok()) line->description = *std::move(described);
  };
  on_all(where, tls_dir, describe);
  return lines;
}

template <std::size_t Columns>
std::string aligned(const std::vector<std::array<std::string, Columns>>& rows) {
  std::array<std::size_t, Columns> widths{};
  for (const auto& row : rows) {
    for (std::size_t n = 0; n < Columns; ++n) widths[n] = std::max(widths[n], row[n].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string told;
    for (std::size_t n = 0; n < Columns; ++n) told += fmt::format("{:<{}}  ", row[n], widths[n]);
    text += told.substr(0, told.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string table_of(const std::vector<Line>& lines) {
  std::vector<std::array<std::string, 6>> nodes = {
      {"NAME", "ADDRESS", "VERSION", "KERNEL", "DELAYS BY", "FAULTS HELD"}};
  std::vector<std::array<std::string, 5>> faults = {{"FAULT", "NODE", "RUN", "LEFT", "WHAT"}};
  std::string halted;
  for (const Line& line : lines) {
    const std::string name = escape_controls(line.name);
    const std::string address = escape_controls(line.address);
    if (!line.reached.ok()) {
      nodes.push_back({name, address, "-", "-", "-", "-"});
      continue;
    }
    const v1::Description& is = line.description;
    nodes.push_back({name, address, escape_controls(is.version()), escape_controls(is.kernel()),
                     is.netem() ? "netem" : "relay", fmt::format("{}", is.faults())});
    for (const v1::HeldFault& fault : is.held()) {
      faults.push_back({escape_controls(fault.fault()), name, escape_controls(fault.run()),
                        fault.remaining() > 0 ? format_measured(Duration(fault.remaining())) : "-",
                        escape_controls(fault.words())});
    }
    if (is.has_halted()) {
      halted += fmt::format("\n{} ({}) is halted by {} since {}: {}\n", name, address,
                            escape_controls(is.halted().by()), escape_controls(is.halted().at()),
                            escape_controls(is.halted().reason()));
    }
  }
  std::string text = aligned(nodes);
  if (faults.size() > 1) text += "\n" + aligned(faults);
  return text + halted;
}

std::string json_of(const std::vector<Line>& lines) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Line& line : lines) {
    nlohmann::ordered_json one = {{"name", line.name}, {"address", line.address}};
    one["reached"] = line.reached.ok();
    if (line.reached.ok()) {
      const v1::Description& is = line.description;
      one["version"] = is.version();
      one["kernel"] = is.kernel();
      one["netem"] = is.netem();
      one["kinds"] = std::vector<std::string>(is.kinds().begin(), is.kinds().end());
      one["faults"] = is.faults();
      one["held"] = nlohmann::ordered_json::array();
      for (const v1::HeldFault& fault : is.held()) {
        nlohmann::ordered_json held = {
            {"fault", fault.fault()}, {"run", fault.run()}, {"words", fault.words()}};
        held["remaining_ms"] = fault.remaining() > 0
                                   ? nlohmann::ordered_json(to_ms(Duration(fault.remaining())))
                                   : nlohmann::ordered_json(nullptr);
        one["held"].push_back(std::move(held));
      }
      one["halted"] = nullptr;
      if (is.has_halted()) {
        one["halted"] = {
            {"by", is.halted().by()}, {"at", is.halted().at()}, {"reason", is.halted().reason()}};
      }
    } else {
      one["error"] = message_of(line.reached);
    }
    list.push_back(std::move(one));
  }
  const nlohmann::ordered_json json = {{"nodes", std::move(list)}};
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

int nodes(const Invocation& said) {
  std::vector<Line> lines;
  bool has_local = said.files.empty();
  if (!said.files.empty()) {
    // Who only asks for the nodes injects nothing that a check would have to see.
    plan::Given given = said.given;
    given.unobserved = true;
    const auto plan = load_plan(said.files.front(), given);
    if (!plan) return kRefused;
    fleet::Options options;
    options.tls_dir = said.tls_dir;
    const auto made = fleet::make_nodes(*plan, options);
    if (!made.ok()) {
      complain(said.files.front() + ": " + message_of(made.status()));
      return kRefused;
    }
    for (const auto& [name, node] : plan->nodes()) has_local = has_local || node.address().empty();
    for (const auto& node : *made) lines.push_back({node->name(), "", {}, {}});
    // Before one more squalld is started only to be asked.
    std::vector<Line> running;
    if (has_local) running = here(said.tls_dir);
    reach_all(*made, lines);
    for (Line& line : running) {
      const bool known = std::any_of(lines.begin(), lines.end(), [&line](const Line& one) {
        return one.address == line.address;
      });
      if (!known) lines.push_back(std::move(line));
    }
  } else {
    lines = here(said.tls_dir);
  }
  if (lines.empty() && said.output != "json") {
    std::puts("no squalld runs on this machine, and no run goes on here");
    return kSuccess;
  }
  std::fputs((said.output == "json" ? json_of(lines) : table_of(lines)).c_str(), stdout);
  bool all = true;
  for (const Line& line : lines) {
    if (line.reached.ok()) continue;
    all = false;
    complain(escape_controls(fmt::format("node {}: {}", line.name, message_of(line.reached))));
  }
  return all ? kSuccess : kUnreachable;
}

}  // namespace squall::cli
