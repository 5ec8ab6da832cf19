/// \file
/// Places where a process can be told to die, for the tests that prove that nothing is left behind
/// wherever it does. Always compiled in, so that what is tested is what is shipped.
///
/// They are armed by the process's own environment alone, which no plan and no message reaches;
/// whoever may set it may as well kill the process.
///
///   SQUALL_FAILPOINT=NAME[:N]     die by SIGKILL at the N-th passage of that name (else the first)
///   SQUALL_FAILPOINT_NOTES=FILE   append the name of each point passed to that file
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace squall {

namespace failpoints {

/// The names of all points of this program, a line each, in their order.
void print();

bool enlist(std::string_view name);
void pass(std::string_view name);

template <std::size_t kSize>
struct Name {
  // NOLINTNEXTLINE(google-explicit-constructor): made of a literal in the place of an argument
  consteval Name(const char (&literal)[kSize]) { std::copy_n(literal, kSize, text); }
  char text[kSize]{};
};

/// One for each name, whether the point is passed or not: so that they can be told beforehand.
template <Name kName>
struct Enlisted {
  static inline const bool kKnown = enlist(kName.text);
};

}  // namespace failpoints

/// A point named after the change that was just made: failpoint<"files.renamed">(). One look at a
/// variable where none is armed.
template <failpoints::Name kName>
void failpoint() {
  // Used as an object, or it would not be made.
  [[maybe_unused]] const bool* known = &failpoints::Enlisted<kName>::kKnown;
  failpoints::pass(kName.text);
}

}  // namespace squall
