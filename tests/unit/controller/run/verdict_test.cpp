#include "controller/run/verdict.h"

#include <doctest/doctest.h>

#include <utility>
#include <vector>

namespace squall::run {

TEST_CASE("nothing found means held") {
  const Conclusion conclusion = conclude({}, "all is well");
  CHECK(conclusion.verdict == v1::HELD);
  CHECK(conclusion.exit_code == 0);
  CHECK(conclusion.sentence == "all is well");
  CHECK(Findings().none());
}

TEST_CASE("of several verdicts the gravest decides: 70 > 5 > 130 > 4 > 2 > 3 > 1") {
  const std::vector<std::pair<std::uint32_t, std::vector<std::string> Findings::*>> gravest_first =
      {
          {70, &Findings::internal},    {5, &Findings::residue}, {130, &Findings::interrupted},
          {4, &Findings::not_injected}, {2, &Findings::refused}, {3, &Findings::not_steady},
          {1, &Findings::breached},
      };
  for (std::size_t a = 0; a < gravest_first.size(); ++a) {
    for (std::size_t b = a; b < gravest_first.size(); ++b) {
      Findings findings;
      (findings.*gravest_first[b].second).push_back("the lesser");
      (findings.*gravest_first[a].second)
          .insert((findings.*gravest_first[a].second).begin(), "the graver");
      const Conclusion conclusion = conclude(findings, "held");
      CHECK(conclusion.exit_code == gravest_first[a].first);
      CHECK(exit_code(conclusion.verdict) == conclusion.exit_code);
      CHECK(conclusion.sentence ==
            (a == b ? "the graver (and 1 more)" : "the graver; also: the lesser"));
    }
  }
}

}  // namespace squall::run
