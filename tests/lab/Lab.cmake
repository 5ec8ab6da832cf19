# squall_lab_test(NAME SOURCES… [LINKS…] [CASE_TIMEOUT s] [INIT PATH]): a doctest binary whose cases run on the lab's
# kernel, under INIT as process 1 if there is one. The kernel boots once for all of them; every case is a ctest entry of
# its own, labelled lab.
function(squall_lab_test name)
  # The lab's kernel has too little address space for a sanitizer's shadow memory.
  if(SQUALL_SANITIZE)
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "CASE_TIMEOUT;INIT" "SOURCES;LINKS")
  if(NOT arg_CASE_TIMEOUT)
    set(arg_CASE_TIMEOUT 60)
  endif()
  set(results ${CMAKE_CURRENT_BINARY_DIR}/${name}.results)

  add_executable(${name} ${arg_SOURCES} ${PROJECT_SOURCE_DIR}/tests/support/main.cpp)
  set_target_properties(${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests
    CROSSCOMPILING_EMULATOR "$<TARGET_FILE:squall-lab>;case;${results}")
  target_link_libraries(${name} PRIVATE squall_warnings ${arg_LINKS} squall_shared doctest::doctest)
  add_dependencies(${name} squall-lab)

  set(how run)
  if(arg_INIT)
    set(how run-under ${arg_INIT})
  endif()
  add_test(NAME ${name}.boot
    COMMAND squall-lab ${how} ${results} ${arg_CASE_TIMEOUT} $<TARGET_FILE:${name}>)
  # squall-lab ends by itself what stands still.
  set_tests_properties(${name}.boot PROPERTIES LABELS lab FIXTURES_SETUP ${name} TIMEOUT 3600)
  doctest_discover_tests(${name} TEST_PREFIX "lab:"
    PROPERTIES LABELS lab FIXTURES_REQUIRED ${name} TIMEOUT 10 SKIP_REGULAR_EXPRESSION "SKIPPED:")
endfunction()
