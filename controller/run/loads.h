/// \file
/// The loads of a run: begun before the steady state is proven, as they are part of it, and ended
/// with the run however that ends. Their numbers are watched as checks are.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "controller/load/load.h"
#include "controller/run/watch.h"
#include "squall/v1/events.pb.h"
#include "squall/v1/plan.pb.h"

namespace squall::run {

/// For the loop's thread alone.
class Loads {
 public:
  using Make = std::function<std::unique_ptr<load::Load>(const v1::Load&)>;

  /// `make` may be absent where the plan has none.
  Loads(const v1::Plan& plan, const Make& make);

  /// Gives their numbers to the watch.
  void show(Watch& watch) const;

  /// Begins them all. Returns what could not be, a sentence each.
  std::vector<std::string> start(const boost::asio::any_io_executor& loop);

  /// Until cancelled; `on_failed` is told, in a sentence, of each that ends as it should not.
  boost::asio::awaitable<void> watch(std::function<void(const std::string&)> on_failed);

  /// Ends those that have begun, all at once, and tells of each. Cancelled, in haste.
  boost::asio::awaitable<void> end(bool in_haste, std::function<void(v1::Event)> tell);

 private:
  struct One {
    v1::Load declared;
    std::unique_ptr<load::Load> load;
    bool begun = false;
  };

  std::vector<One> all_;
};

}  // namespace squall::run
