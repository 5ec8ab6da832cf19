/// \file
/// The plan language as a JSON Schema, for editors and for whoever makes plans by program. Told
/// from the declarations alone: a kind that is declared is in it.
#pragma once

#include <string>

namespace squall::plan {

/// The schema (draft-07), as a text that ends its line. Every plan that load() takes is right by
/// it, but for empty texts, which are as good as none there; of those that load() refuses it
/// refuses what a schema can know: unknown keys, missing ones, wrong types and units, what may not
/// stand beside what. Bounds of quantities are in its words. `errorMessage` is no keyword of the
/// draft, but of the editors: what they say instead of a pattern.
std::string json_schema();

}  // namespace squall::plan
