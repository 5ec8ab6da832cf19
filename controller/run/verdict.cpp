#include "controller/run/verdict.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace squall::run {
namespace {

using Class = std::pair<v1::Verdict, std::vector<std::string> Findings::*>;

/// The gravest first.
constexpr std::array<Class, 7> kClasses = {{
    {v1::INTERNAL, &Findings::internal},
    {v1::RESIDUE, &Findings::residue},
    {v1::INTERRUPTED, &Findings::interrupted},
    {v1::NOT_INJECTED, &Findings::not_injected},
    {v1::REFUSED, &Findings::refused},
    {v1::NOT_STEADY, &Findings::not_steady},
    {v1::BREACHED, &Findings::breached},
}};

std::string first_of(const std::vector<std::string>& sentences) {
  if (sentences.size() == 1) return sentences.front();
  return fmt::format("{} (and {} more)", sentences.front(), sentences.size() - 1);
}

}  // namespace

bool Findings::none() const {
  return std::all_of(kClasses.begin(), kClasses.end(),
                     [this](const Class& found) { return (this->*found.second).empty(); });
}

Conclusion conclude(const Findings& findings, const std::string& held) {
  Conclusion conclusion;
  for (const auto& [verdict, member] : kClasses) {
    const auto& sentences = findings.*member;
    if (sentences.empty()) continue;
    if (conclusion.sentence.empty()) {
      conclusion.verdict = verdict;
      conclusion.sentence = first_of(sentences);
    } else {
      conclusion.sentence += "; also: " + first_of(sentences);
    }
  }
  if (conclusion.sentence.empty()) conclusion.sentence = held;
  conclusion.exit_code = exit_code(conclusion.verdict);
  return conclusion;
}

std::uint32_t exit_code(v1::Verdict verdict) {
  switch (verdict) {
    case v1::HELD:
      return 0;
    case v1::BREACHED:
      return 1;
    case v1::REFUSED:
      return 2;
    case v1::NOT_STEADY:
      return 3;
    case v1::NOT_INJECTED:
      return 4;
    case v1::RESIDUE:
      return 5;
    case v1::INTERRUPTED:
      return 130;
    default:
      return 70;
  }
}

}  // namespace squall::run
