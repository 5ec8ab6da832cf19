#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>

namespace {

unsigned chosen = 0;

struct Chosen : doctest::IReporter {
  explicit Chosen(const doctest::ContextOptions& /*options*/) {}
  void report_query(const doctest::QueryData& /*data*/) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats& stats) override {
    chosen = stats.numTestCasesPassingFilters;
  }
  void test_case_start(const doctest::TestCaseData& /*data*/) override {}
  void test_case_reenter(const doctest::TestCaseData& /*data*/) override {}
  void test_case_end(const doctest::CurrentTestCaseStats& /*stats*/) override {}
  void test_case_exception(const doctest::TestCaseException& /*thrown*/) override {}
  void subcase_start(const doctest::SubcaseSignature& /*signature*/) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData& /*data*/) override {}
  void log_message(const doctest::MessageData& /*data*/) override {}
  void test_case_skipped(const doctest::TestCaseData& /*data*/) override {}
};

}  // namespace

REGISTER_LISTENER("chosen", 1, Chosen);

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  const int code = context.run();
  // A filter that chooses no case tests nothing, and so must not pass: a name may be spelt
  // otherwise, or have been split at a semicolon on its way through CMake's lists.
  if (!context.shouldExit() && chosen == 0) {
    std::fputs("no test case of that name\n", stderr);
    return EXIT_FAILURE;
  }
  return code;
}
