#include "controller/load/load.h"

#include "controller/load/http.h"
#include "controller/load/program.h"

namespace squall::load {

std::unique_ptr<Load> make_load(const v1::Load& load, const std::filesystem::path& folder) {
  if (load.has_run()) return make_program(load, folder);
  return make_http_load(load.name(), load.http());
}

}  // namespace squall::load
