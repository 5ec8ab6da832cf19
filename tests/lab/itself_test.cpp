#include <doctest/doctest.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

TEST_CASE(
    "the lab is another kernel, with this machine's files read-only and a folder to write in") {
  utsname kernel{};
  REQUIRE(uname(&kernel) == 0);
  CHECK(std::filesystem::exists(std::filesystem::path("/usr/lib/uml/modules") / kernel.release));
  CHECK(access("/usr/bin", W_OK) != 0);
  std::ofstream probe(std::filesystem::temp_directory_path() / "probe");
  CHECK((probe << "written").flush().good());
}

TEST_CASE("the lab's kernel has netem, ifb, tun, IPv6, and no device that nobody asked for") {
  for (const char* module :
       {"sch_netem", "ifb", "tun", "ipv6", "cls_bpf", "act_mirred", "sch_ingress"}) {
    INFO(std::string(module));
    CHECK(std::filesystem::exists(std::filesystem::path("/sys/module") / module));
  }
  CHECK_FALSE(std::filesystem::exists("/sys/class/net/ifb0"));
}
