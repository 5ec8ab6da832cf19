#include "experiments/checks/wire.h"

#include <algorithm>
#include <utility>

#include "experiments/base/diagnostic.h"

namespace squall::checks {
namespace {

constexpr std::size_t kLongestOutput = 64 * 1024;
/// Of an error or a state, which are words.
constexpr std::size_t kLongestText = 4096;
constexpr int kMostNumbers = 64;

std::string shortened(std::string text, std::size_t most) {
  if (text.size() > most) text.resize(most);
  return text;
}

/// A character that the cut went through is escaped as the bytes that are left of it.
std::string as_text(const std::string& text) {
  return escape_controls(shortened(text, kLongestText), true);
}

}  // namespace

v1::Sample to_message(const Sample& sample) {
  v1::Sample message;
  message.set_latency(sample.latency.count());
  message.set_error(as_text(sample.error));
  if (sample.status) message.set_status(*sample.status);
  message.set_state(as_text(sample.state));
  if (sample.exit) message.set_exit(*sample.exit);
  message.set_output(sample.output);
  for (const auto& [name, number] : sample.numbers) (*message.mutable_numbers())[name] = number;
  message.set_no_data(as_text(sample.no_data));
  return message;
}

Sample from_message(v1::Sample message, MonotonicTime asked) {
  Sample sample;
  sample.asked = asked;
  sample.latency = std::max(Duration(message.latency()), Duration::zero());
  sample.error = as_text(message.error());
  if (message.has_status()) sample.status = message.status();
  sample.state = as_text(message.state());
  if (message.has_exit()) sample.exit = message.exit();
  sample.output = shortened(std::move(*message.mutable_output()), kLongestOutput);
  int numbers = 0;
  for (const auto& [name, number] : message.numbers()) {
    if (++numbers > kMostNumbers) break;
    sample.numbers[as_text(name)] = number;
  }
  sample.no_data = as_text(message.no_data());
  return sample;
}

}  // namespace squall::checks
