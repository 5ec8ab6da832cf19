# Everything Squall stands on, all from the distribution's own packages (see the list in `dev`).
include(FindPkgConfig)

set(SQUALL_SANITIZE "" CACHE STRING "Sanitizers, as -fsanitize= has them: address,undefined or thread; fuzzer-no-link,address,undefined with clang")

find_package(Threads REQUIRED)
# Before gRPC, whose own configuration would otherwise find protobuf without protobuf_generate().
find_package(Protobuf REQUIRED)
# It finds re2::re2 as well, which we use; a re2_FOUND of our own would keep it from doing so the second time.
find_package(gRPC CONFIG REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(fmt CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(doctest CONFIG REQUIRED)
find_package(CURL REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(SQLite3 REQUIRED)
pkg_check_modules(yaml REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(nl REQUIRED IMPORTED_TARGET libnl-3.0 libnl-route-3.0)
pkg_check_modules(cares REQUIRED IMPORTED_TARGET libcares)
pkg_check_modules(pq REQUIRED IMPORTED_TARGET libpq)
pkg_check_modules(hiredis REQUIRED IMPORTED_TARGET hiredis)
pkg_check_modules(prometheus REQUIRED IMPORTED_TARGET prometheus-cpp-core)
pkg_check_modules(dbus REQUIRED IMPORTED_TARGET dbus-1)
find_program(CLANG clang REQUIRED)
find_program(BPFTOOL bpftool PATHS /usr/sbin /sbin REQUIRED)

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()
find_program(MOLD mold)
if(MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# squall-hold is linked statically, all else dynamically, but for gRPC, protobuf and abseil: as shared libraries those are
# sixty files whose relocations cost every start of a program 15 ms and a daemon a third of its memory. Some libraries of
# ours go into both kinds. Those name no library of others; a program names one of these two bundles.
pkg_check_modules(grpc_closure REQUIRED grpc++ protobuf)
set(grpc_libraries ${grpc_closure_STATIC_LIBRARIES})
list(REMOVE_DUPLICATES grpc_libraries)
list(TRANSFORM grpc_libraries REPLACE "^(absl_.+|grpc.*|gpr|upb|address_sorting|protobuf)$" ":lib\\1.a")
list(TRANSFORM grpc_libraries PREPEND "-l")
add_library(squall_shared INTERFACE)
target_link_libraries(squall_shared INTERFACE
  -Wl,--push-state,--as-needed -Wl,--start-group ${grpc_libraries} -Wl,--end-group -Wl,--pop-state Threads::Threads)

# What the faults stand on, for the tests, which are linked dynamically.
add_library(squall_kernel INTERFACE)
target_link_libraries(squall_kernel INTERFACE PkgConfig::nl PkgConfig::dbus bpf z re2::re2)

pkg_check_modules(static_closure REQUIRED absl_status absl_statusor re2 libnl-route-3.0 libnl-3.0 libbpf zlib)
add_library(squall_static INTERFACE)
if(SQUALL_SANITIZE)
  # A sanitizer's runtime cannot be linked statically.
  add_compile_options(-fsanitize=${SQUALL_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SQUALL_SANITIZE})
  if(SQUALL_SANITIZE STREQUAL "thread")
    # Asio's fences are not seen by it; each of our loops runs on one thread.
    add_compile_options(-Wno-tsan)
  endif()
else()
  target_link_options(squall_static INTERFACE -static)
endif()
target_link_libraries(squall_static INTERFACE
  -Wl,--start-group -lprotobuf -ldbus-1 ${static_closure_STATIC_LIBRARIES} -Wl,--end-group)
target_link_directories(squall_static INTERFACE ${static_closure_STATIC_LIBRARY_DIRS})
