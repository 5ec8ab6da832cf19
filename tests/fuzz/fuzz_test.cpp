/// \file
/// What ./dev fuzz does at length, at every test run: the same targets from the same seeds with
/// some thousand changes that are the same each time; and what the largest inputs cost.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "experiments/base/diagnostic.h"
#include "experiments/base/fd.h"
#include "experiments/plan/load.h"
#include "tests/fuzz/targets.h"

namespace squall::fuzz {
namespace {

const std::filesystem::path kSource = SQUALL_SOURCE_DIR;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSlowed = true;  // several times, and the sanitizer has memory of its own
#else
constexpr bool kSlowed = false;
#endif

/// Changes that are the same on every machine: the standard's distributions are not.
class Changes {
 public:
  explicit Changes(std::vector<std::string> seeds) : seeds_(std::move(seeds)), words_(words()) {}

  std::string next() {
    std::string text = seeds_[below(seeds_.size())];
    for (std::size_t changes = 1 + below(4); changes > 0; --changes) change(text);
    return text;
  }

 private:
  std::size_t below(std::size_t end) { return static_cast<std::size_t>(random_()) % end; }

  void change(std::string& text) {
    const std::size_t at = below(text.size() + 1);
    switch (below(8)) {
      case 0:  // one bit
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        return;
      case 1:  // any byte
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        return;
      case 2:
        text.erase(at, 1 + below(20));
        return;
      case 3:
        text.resize(at);
        return;
      case 4:  // a part once more, somewhere else
        text.insert(at, text.substr(below(text.size() + 1), below(80)));
        return;
      case 5: {  // a part of another
        const std::string& other = seeds_[below(seeds_.size())];
        text = text.substr(0, at) + other.substr(below(other.size() + 1));
        return;
      }
      case 6: {  // the same many times, which nests what opens
        const std::string& word = words_[below(words_.size())];
        std::string many;
        for (std::size_t i = below(100); i > 0; --i) many += word;
        text.insert(at, many);
        return;
      }
      default:
        text.insert(at, words_[below(words_.size())]);
        return;
    }
  }

  std::vector<std::string> seeds_;
  std::vector<std::string> words_;
  std::mt19937 random_;  // with its fixed seed
};

TEST_CASE("no bytes bring down what reads them and what is read keeps its bounds") {
  // Where a machine is slow the end is left out, never another part.
  constexpr auto kLongest = std::chrono::seconds(2);
  for (const Target& target : targets()) {
    const std::vector<std::string> seeds = target.seeds(kSource);
    CHECK_MESSAGE(seeds.size() >= 2, target.name);
    for (const std::string& seed : seeds) {
      const std::string wrong = target.take(seed);
      CHECK_MESSAGE(wrong.empty(), target.name, ": ", wrong, "\n", seed);
    }
    Changes changes(seeds);
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 2000 && std::chrono::steady_clock::now() - begin < kLongest; ++i) {
      const std::string bytes = changes.next();
      const std::string wrong = target.take(bytes);
      CHECK_MESSAGE(wrong.empty(), target.name, ": ", wrong, "\n", escape_controls(bytes, true));
    }
  }
}

TEST_CASE("most of what a plan's changes begin with are plans") {
  // Others name files beside them, or are parts.
  const std::vector<std::string> seeds = targets().front().seeds(kSource);
  const auto plans = std::count_if(seeds.begin(), seeds.end(), [](const std::string& text) {
    return plan::load(text, "/nowhere/plan.yaml",
                      {.set = {}, .params_files = {}, .unobserved = true})
        .plan.has_value();
  });
  CHECK(plans > 20);
}

// ---- what the largest cost

constexpr std::size_t kMiB = std::size_t{1} << 20;

/// Of what has up to eight values each, so that no more of them are not too many values.
constexpr std::size_t kMany = 12'000;

/// As often as it goes into 1 MiB, behind what begins and before what ends.
std::string filled(const std::string& word, const std::string& begin = "",
                   const std::string& end = "", std::size_t most = kMiB) {
  std::string text = begin;
  for (std::size_t number = 0; number < most; ++number) {
    if (text.size() + word.size() + end.size() > kMiB) break;
    text += word;
  }
  return text + end;
}

/// The same with the number of each in the place of every %.
std::string numbered(const std::string& word, const std::string& begin = "",
                     const std::string& end = "", std::size_t most = kMiB) {
  std::string text = begin;
  for (std::size_t number = 0; number < most; ++number) {
    std::string one;
    for (const char c : word) {
      if (c == '%') {
        one += std::to_string(number);
      } else {
        one += c;
      }
    }
    if (text.size() + one.size() + end.size() > kMiB) break;
    text += one;
  }
  return text + end;
}

std::string random_bytes(unsigned least, unsigned most) {
  std::mt19937 random;
  std::string text;
  while (text.size() < kMiB) {
    text += static_cast<char>(least + static_cast<unsigned>(random()) % (most - least + 1));
  }
  return text;
}

std::string indented() {
  std::string text;
  for (std::size_t depth = 0; text.size() + depth + 3 < kMiB; ++depth) {
    text += std::string(depth, ' ') + "a:\n";
  }
  return text;
}

std::string bomb() {
  std::string text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 20; ++i) {
    text += fmt::format("a{0}: &a{0} [*a{1},*a{1},*a{1},*a{1},*a{1},*a{1},*a{1},*a{1},*a{1}]\n", i,
                        i - 1);
  }
  return text;
}

struct Input {
  std::string name;
  std::string text;
};

std::vector<Input> hostile_inputs() {
  const std::string head = "plan: t\nnodes: {local: {}}\n";
  const std::string method = head + "method:\n";
  const std::string half(kMiB / 2, 'x');
  const std::string checks = head + "method: [{wait: 1s}]\nsteady_state:\n";
  return {
      {"brackets", filled("[")},
      {"braces", filled("{")},
      {"nested keys of flow", filled("{a: ")},
      {"question marks", filled("? ")},
      {"dashes on one line", filled("- ")},
      {"a million dashes", filled("-\n")},
      {"dashes without blanks", filled("-")},
      {"levels by indentation", indented()},
      {"documents", filled("---\n")},
      {"ends of documents", filled("...\n")},
      {"directives", filled("%YAML 1.1\n")},
      {"tags", filled("- !t x\n")},
      {"anchors", numbered("- &a% x\n")},
      {"aliases to nothing", filled("- *a\n")},
      {"aliases", filled("- *a\n", "plan: &a [x,x,x]\nnodes:\n")},
      {"aliases of aliases", bomb()},
      {"one long line", filled("x")},
      {"one long word for a title", filled("x", "plan: ")},
      {"one long quote", filled("x", "plan: \"")},
      {"one long key", filled("x", "", ": 1\n")},
      {"escapes", filled("\\x", "plan: \"", "\"\n")},
      {"escapes of characters", filled("\\u00e9", "plan: \"", "\"\n")},
      {"quotes", filled("'")},
      {"comments", filled("#\n")},
      {"blank lines", filled("\n")},
      {"tabs", filled("\t")},
      {"Windows line ends", filled("\r\n")},
      {"colons", filled("a: ")},
      {"commas", filled(",", "plan: [")},
      {"bytes", random_bytes(0, 255)},
      {"characters", random_bytes(' ', '~')},
      {"characters of several bytes", filled("\xF0\x9F\x8C\x80")},
      {"keys", numbered("k%: 1\n")},
      {"the same key", filled("a: 1\n")},
      {"a list", filled("a,", "plan: [", "]\n")},
      {"a list of quotes", filled("\"a\",", "plan: [", "]\n")},
      {"a list of lists", filled("[],", "plan: [", "]\n")},
      {"steps", filled("- wait: 1s\n", method)},
      {"steps that do nothing", filled("- {}\n", method, "", kMany)},
      {"steps with unknown words", numbered("- delai%: 1s\n", method, "", kMany)},
      {"steps on unknown nodes",
       numbered("- {on: n%, kill: {process: {name: a}}}\n", method, "", kMany)},
      {"steps on unknown labels",
       numbered("- {on: {l%: a}, cpu: {load: 1%}, for: 1s}\n", method, "", kMany)},
      {"a mapping of steps", numbered("  wait%: 1s\n", method, "", kMany)},
      {"files that are not there", numbered("- include: f%.yaml\n", method, "", kMany)},
      {"the same file that is not there", filled("- include: f.yaml\n", method, "", kMany)},
      {"nodes with one address",
       numbered("  n%: {address: \"h:1\"}\n", "plan: t\nnodes:\n", "", kMany)},
      {"nodes and steps on them that are wrong",
       numbered("- {on: n99999x%, kill: {process: {name: a}}}\n",
                numbered("  n%: {}\n", "plan: t\nnodes:\n", "", kMany) + "method:\n", "",
                kMany / 2)},
      {"labels", numbered("l%: a, ", "plan: t\nnodes: {a: {labels: {", "}}}\n")},
      {"steps, and a few more", filled("- wait: 1s\n", method, "", kMany)},
      {"groups of a partition",
       filled("local,", method + "- {partition: {between: [", "]}, for: 1s}\n")},
      {"checks of one name",
       filled("- {name: a, tcp: {address: \"h:1\"}, expect: [state == open]}\n", checks, "",
              kMany)},
      {"expectations that are none",
       numbered("x% < 1,", checks + "- {name: a, tcp: {address: \"h:1\"}, expect: [", "]}\n")},
      {"patterns", numbered("\"body matches (a|b){%}\",",
                            checks + "- {name: a, http: {url: \"http://h/\"}, expect: [", "]}\n")},
      {"long patterns", filled("(a|b)*",
                               checks + "- {name: a, http: {url: \"http://h/\"}, expect: [\"body "
                                        "matches ",
                               "\"]}\n")},
      {"credentials",
       numbered("- {name: a%, http: {url: \"http://u:p@h/\"}, expect: [status == x]}\n", checks, "",
                kMany)},
      {"ports", numbered("%,", method + "- {network: {delay: 1ms, to: {ports: [", "]}}}\n")},
      {"parameters without end", filled("${", head + "method: [{wait: \"", "\"}]\n")},
      {"parameters that are not declared", numbered("- wait: ${p%}\n", method, "", kMany)},
      {"parameters that are not used", numbered("  p%: 1\n", head + "params:\n")},
      {"parameters and others that are nearly they",
       numbered("- wait: ${parameter%x}\n",
                numbered("  parameter%: 1\n", head + "params:\n", "", kMany) + "method:\n", "",
                kMany)},
      {"signs of parameters", filled("$${", "plan: \"", "\"\n")},
      {"a long parameter many times in one text",
       filled("${a}", head + "params: {a: " + half + "}\nmethod: [{ask: \"", "\"}]\n")},
      {"a long parameter in many texts",
       filled("- ask: ${a}\n", head + "params: {a: " + half + "}\nmethod:\n")},
      {"a long text in many places",
       filled("*a,", head + "environment: &a " + half + "\nmethod: [{script: {run: [", "]}}]\n")},
      {"a long wrong text in many places",
       filled("- {on: *a, network: {delay: ${a}, interface: ${a}}, for: 1s}\n",
              head + "params: {a: &a " + half + "}\nmethod:\n")},
      {"a long key in many places", filled("- {*a : 1}\n", "plan: &a " + half + "\nmethod:\n")},
      {"long lines with many mistakes", filled("{a: 1, b: 2},", method + "[", "]\n")},
      {"texts of several lines", filled("- |\n x\n", "plan:\n")},
  };
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

/// Of this process, as the kernel counts: VmRSS, VmHWM.
std::size_t kilobytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return std::stoul(line.substr(field.size() + 1));
  }
  return 0;
}

struct Cost {
  double seconds = 0;  ///< Of processor time: a machine that is busy does not count.
  std::size_t kilobytes = 0;
  bool refused = false;
};

/// In a process of its own, whose memory no other input has touched; nothing where it died.
std::optional<Cost> cost_of_refusing(const std::string& text) {
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  const Fd out(ends[0]);
  Fd in(ends[1]);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // What would take all of the machine ends here.
    const rlimit processor{.rlim_cur = 60, .rlim_max = 60};
    const rlimit memory{.rlim_cur = std::size_t{2} << 30, .rlim_max = std::size_t{2} << 30};
    setrlimit(RLIMIT_CPU, &processor);
    if (!kSlowed) setrlimit(RLIMIT_AS, &memory);
    // What the inputs' making has left would be used again, and the most there ever was is its.
    malloc_trim(0);
    std::ofstream("/proc/self/clear_refs") << "5\n";
    const std::size_t before = kilobytes("VmRSS");
    const double begin = cpu_seconds();
    Cost cost;
    {
      const plan::Loaded loaded = plan::load(text, "/nowhere/plan.yaml");
      cost.refused = !loaded.plan && !format_diagnostics(loaded.diagnostics, false).empty();
    }
    cost.seconds = cpu_seconds() - begin;
    cost.kilobytes = kilobytes("VmHWM") - before;
    _exit(write(in.number(), &cost, sizeof cost) == sizeof cost ? 0 : 1);
  }
  in = Fd();
  Cost cost;
  const bool told = read(out.number(), &cost, sizeof cost) == sizeof cost;
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  if (!told || status != 0) return std::nullopt;
  return cost;
}

/// What this machine takes for something that is none of ours: 80 ms on one of 2020.
double yardstick() {
  const double begin = cpu_seconds();
  std::mt19937 random;
  std::vector<std::uint32_t> numbers(1'000'000);
  for (std::uint32_t& number : numbers) number = static_cast<std::uint32_t>(random());
  std::sort(numbers.begin(), numbers.end());
  return cpu_seconds() - begin + (numbers.front() > numbers.back() ? 1 : 0);
}

TEST_CASE("no input of 1 MiB takes more than 400 ms or 64 MiB to refuse") {
  constexpr double kMost = 0.4;
  constexpr double kYardsticks = 8;
  constexpr std::size_t kMostKilobytes = 64 * 1024;
  const double most = std::max(kMost, kYardsticks * yardstick()) * (kSlowed ? 20 : 1);
  for (const Input& input : hostile_inputs()) {
    CAPTURE(input.name);
    CHECK(input.text.size() <= kMiB);
    const std::optional<Cost> cost = cost_of_refusing(input.text);
    REQUIRE(cost.has_value());
    CHECK(cost->refused);
    CHECK(cost->seconds <= most);
    if (!kSlowed) CHECK(cost->kilobytes <= kMostKilobytes);
  }
}

}  // namespace
}  // namespace squall::fuzz
