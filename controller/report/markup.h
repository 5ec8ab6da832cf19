/// \file
/// Text from a plan or a node within XML, and so within HTML too, and within Markdown.
#pragma once

#include <string>
#include <string_view>

namespace squall::report {

/// For an attribute or for text. XML 1.0 has no way at all to carry most control characters, U+FFFE
/// or U+FFFF: the first are escaped as on a terminal, the others replaced.
std::string xml(std::string_view text);

/// For one line of GitHub's Markdown, a table's cell too: whatever would be markup is text.
std::string markdown(std::string_view text);

}  // namespace squall::report
