# squall_library(NAME SOURCES… [LINKS…]): one of our own static libraries, warnings as errors.
# squall_test(NAME LABEL label SOURCES… [LINKS…]): a doctest binary, every case its own ctest entry.
include(doctest)

add_library(squall_warnings INTERFACE)
target_compile_options(squall_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor -Wold-style-cast -Werror
  # g++ 12 sees overlaps in "literal" + std::string that are none (GCC bug 105651).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>>)
target_include_directories(squall_warnings INTERFACE ${PROJECT_SOURCE_DIR})

function(squall_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINKS")
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC squall_warnings ${arg_LINKS})
endfunction()

function(squall_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "LABEL;TIMEOUT" "SOURCES;LINKS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  add_executable(${name} ${arg_SOURCES} ${PROJECT_SOURCE_DIR}/tests/support/main.cpp)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE squall_warnings ${arg_LINKS} squall_shared doctest::doctest)
  doctest_discover_tests(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT}
    SKIP_REGULAR_EXPRESSION "SKIPPED:")
endfunction()
