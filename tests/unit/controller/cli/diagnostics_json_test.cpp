#include "controller/cli/diagnostics_json.h"

#include <doctest/doctest.h>

#include <vector>

namespace squall::cli {

TEST_CASE("what is wrong with plans is told in the shape of terraform validate") {
  std::vector<Diagnostics> files(2);
  files[0].file = "a.yaml";
  files[0].error({3, 5, 4}, "unknown key \"deley\"", "did you mean delay?");
  files[0].warning({7, 1, 1}, "a warning");
  files[1].file = "b.yaml";
  files[1].error({}, "is empty");
  CHECK(diagnostics_json(files) == R"({
  "valid": false,
  "error_count": 2,
  "warning_count": 1,
  "diagnostics": [
    {
      "severity": "error",
      "summary": "unknown key \"deley\"",
      "detail": "did you mean delay?",
      "range": {
        "filename": "a.yaml",
        "start": {
          "line": 3,
          "column": 5
        },
        "end": {
          "line": 3,
          "column": 9
        }
      }
    },
    {
      "severity": "warning",
      "summary": "a warning",
      "detail": "",
      "range": {
        "filename": "a.yaml",
        "start": {
          "line": 7,
          "column": 1
        },
        "end": {
          "line": 7,
          "column": 2
        }
      }
    },
    {
      "severity": "error",
      "summary": "is empty",
      "detail": "",
      "range": {
        "filename": "b.yaml",
        "start": {
          "line": 1,
          "column": 1
        },
        "end": {
          "line": 1,
          "column": 1
        }
      }
    }
  ]
}
)");
}

TEST_CASE("plans without a fault are valid, and bytes that are not UTF-8 do no harm") {
  CHECK(diagnostics_json({}) ==
        "{\n  \"valid\": true,\n  \"error_count\": 0,\n  \"warning_count\": 0,\n  "
        "\"diagnostics\": []\n}\n");
  std::vector<Diagnostics> files(1);
  files[0].file = "\xff.yaml";
  files[0].warning({1, 1, 1}, "odd");
  CHECK(diagnostics_json(files).find("\"valid\": true") != std::string::npos);
}

TEST_CASE("a list that is cut says so") {
  std::vector<Diagnostics> files(1);
  for (std::size_t i = 0; i <= Diagnostics::kMostKept; ++i) files[0].error({1, i, 1}, "x");
  const std::string json = diagnostics_json(files);
  CHECK(json.find("\"error_count\": 1000,") != std::string::npos);
  CHECK(json.ends_with("  ],\n  \"more_not_listed\": true\n}\n"));
}

}  // namespace squall::cli
