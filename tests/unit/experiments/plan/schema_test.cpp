#include "experiments/plan/schema.h"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "experiments/plan/declared.h"
#include "experiments/plan/describe.h"
#include "squall/v1/faults.pb.h"
#include "squall/v1/plan.pb.h"

// What the schema takes and refuses, and what editors make of it, is tested in tests/schema/.

namespace squall::plan {
namespace {

using Json = nlohmann::json;

TEST_CASE("the committed schema is the one that squall prints") {
  std::ifstream file(SQUALL_SOURCE_DIR "/docs/squall.schema.json");
  const std::string committed{std::istreambuf_iterator<char>(file), {}};
  const bool same = committed == json_schema();  // not shown: thousands of lines
  CHECK_MESSAGE(same,
                "docs/squall.schema.json is not what `squall schema` prints; ./dev docs renews it");
}

TEST_CASE("every key of every message that a plan reaches is in the schema with its help") {
  const Json schema = Json::parse(json_schema());
  int keys = 0;
  for (const auto& [name, definition] : schema["definitions"].items()) {
    const Descriptor* type =
        v1::Plan::descriptor()->file()->pool()->FindMessageTypeByName("squall.v1." + name);
    if (type == nullptr || rules_of(*type).form() != v1::FORM_NONE) continue;
    for (const FieldDescriptor* field : fields_of(*type)) {
      REQUIRE_MESSAGE(definition["properties"].contains(field->name()), name, ".", field->name());
      const Json& property = definition["properties"][field->name()];
      const std::string told = property["description"];
      CHECK_MESSAGE(told.starts_with(describe(*field).help), name, ".", field->name());
      CHECK_MESSAGE(!told.empty(), name, ".", field->name());
      ++keys;
    }
  }
  CHECK(keys > 100);
}

TEST_CASE("every kind of fault and check is in the schema") {
  const Json schema = Json::parse(json_schema());
  for (const auto& [kinds, level] :
       {std::pair{v1::Fault::descriptor()->FindOneofByName("kind"), "Step"},
        std::pair{v1::Check::descriptor()->FindOneofByName("kind"), "Check"}}) {
    for (const std::string& kind : choices(*kinds)) {
      const Json& key = schema["definitions"][level]["properties"][kind];
      const std::string definition = key.value("$ref", "").substr(sizeof("#/definitions/") - 1);
      CHECK_MESSAGE(schema["definitions"].contains(definition), kind);
    }
  }
}

}  // namespace
}  // namespace squall::plan
