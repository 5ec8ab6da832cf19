#include "injector/faults/undo.h"

#include <algorithm>
#include <iterator>

namespace squall::hold {
namespace {

const UndoKind* kind_of(const v1::Undo& undo) {
  const auto kinds = undo_kinds();
  const auto found = std::find_if(kinds.begin(), kinds.end(), [&](const UndoKind& kind) {
    return kind.what == undo.what_case();
  });
  return found == kinds.end() ? nullptr : &*found;
}

}  // namespace

Status run_undo(const v1::Undo& undo) {
  if (const UndoKind* kind = kind_of(undo)) return kind->run(undo);
  return error(StatusCode::kUnimplemented, "an undo of another version");
}

std::string in_words(const v1::Undo& undo) {
  const UndoKind* kind = kind_of(undo);
  return kind != nullptr ? kind->in_words(undo) : "an undo of another version";
}

StatusOr<std::vector<v1::Undo>> find_tagged(const std::string& state_id) {
  std::vector<v1::Undo> undos;
  for (const UndoKind& kind : undo_kinds()) {
    if (kind.find_tagged == nullptr) continue;
    StatusOr<std::vector<v1::Undo>> found = kind.find_tagged(state_id);
    if (!found.ok()) return found;
    std::move(found->begin(), found->end(), std::back_inserter(undos));
  }
  return undos;
}

std::string tag_of(const v1::Undo& undo) {
  const google::protobuf::OneofDescriptor& what = *v1::Undo::descriptor()->oneof_decl(0);
  const google::protobuf::FieldDescriptor* set =
      v1::Undo::GetReflection()->GetOneofFieldDescriptor(undo, &what);
  if (set == nullptr) return "";
  const google::protobuf::Message& inner = v1::Undo::GetReflection()->GetMessage(undo, set);
  const google::protobuf::FieldDescriptor* tag = inner.GetDescriptor()->FindFieldByName("tag");
  return tag == nullptr ? "" : inner.GetReflection()->GetString(inner, tag);
}

}  // namespace squall::hold
