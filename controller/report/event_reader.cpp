#include "controller/report/event_reader.h"

#include <bit>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "experiments/base/diagnostic.h"

namespace squall::report {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

struct Fields;

struct Field {
  std::string name;
  FieldDescriptor::CppType type = FieldDescriptor::CPPTYPE_STRING;
  bool is_repeated = false;
  bool is_map = false;
  std::uint32_t number = 0;
  const Fields* message = nullptr;                  ///< Of a message, or of a map's entry.
  std::unordered_map<std::string, int> enum_names;  ///< Of an enum.
};

/// Of one message, in the contract's order, which is the log's.
struct Fields {
  std::vector<Field> all;
};

constexpr std::uint32_t kVarint = 0;
constexpr std::uint32_t kFixed64 = 1;
constexpr std::uint32_t kDelimited = 2;
constexpr std::uint32_t kFixed32 = 5;

/// What nobody knows may be nested so deep.
constexpr int kDeepest = 64;

/// A length that is not known yet: a varint is allowed to be longer than it had to be.
constexpr std::size_t kLengthBytes = 5;

class Line {
 public:
  Line(std::string_view text, std::string& wire, std::string& scratch)
      : at_(text.data()), end_(text.data() + text.size()), wire_(wire), scratch_(scratch) {}

  bool read(const Fields& event) {
    if (!take('{') || !message(event)) return false;
    skip_blanks();
    return at_ == end_;
  }

 private:
  void skip_blanks() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\r' || *at_ == '\n')) ++at_;
  }

  bool take(char wanted) {
    skip_blanks();
    if (at_ == end_ || *at_ != wanted) return false;
    ++at_;
    return true;
  }

  bool take_word(std::string_view wanted) {
    skip_blanks();
    if (!std::string_view(at_, end_).starts_with(wanted)) return false;
    at_ += wanted.size();
    return true;
  }

  void put_varint(std::uint64_t value) {
    while (value >= 0x80) {
      wire_ += static_cast<char>(value | 0x80);
      value >>= 7;
    }
    wire_ += static_cast<char>(value);
  }

  void put_tag(const Field& field, std::uint32_t kind) { put_varint(field.number << 3 | kind); }

  /// Behind the brace that opens it.
  bool message(const Fields& fields) {
    if (take('}')) return true;
    std::size_t expected = 0;
    do {
      const auto name = string();
      if (!name || !take(':')) return false;
      const Field* const field = find(fields, *name, expected);
      if (field == nullptr ? !skip(0) : !value(*field)) return false;
    } while (take(','));
    return take('}');
  }

  /// Most often the next one of those that follow the last.
  static const Field* find(const Fields& fields, std::string_view name, std::size_t& expected) {
    for (std::size_t tried = 0; tried < fields.all.size(); ++tried) {
      if (expected >= fields.all.size()) expected = 0;
      const Field& field = fields.all[expected++];
      if (field.name == name) return &field;
    }
    return nullptr;
  }

  bool value(const Field& field) {
    // What is no number is null: the log knows neither NaN nor infinity.
    if (take_word("null")) return true;
    if (field.is_map) return entries(field);
    if (!field.is_repeated) return one(field);
    if (!take('[')) return false;
    if (take(']')) return true;
    do {
      if (!one(field)) return false;
    } while (take(','));
    return take(']');
  }

  bool entries(const Field& field) {
    if (!take('{')) return false;
    if (take('}')) return true;
    do {
      const std::size_t length = open(field);
      const auto key = string();
      if (!key || !take(':')) return false;
      put_tag(field.message->all[0], kDelimited);
      put_text(*key);
      if (!value(field.message->all[1])) return false;
      close(length);
    } while (take(','));
    return take('}');
  }

  std::size_t open(const Field& field) {
    put_tag(field, kDelimited);
    wire_.append(kLengthBytes, '\0');
    return wire_.size();
  }

  void close(std::size_t begin) {
    std::size_t length = wire_.size() - begin;
    for (std::size_t byte = 0; byte < kLengthBytes; ++byte, length >>= 7) {
      const bool last = byte + 1 == kLengthBytes;
      wire_[begin - kLengthBytes + byte] = static_cast<char>((length & 0x7F) | (last ? 0 : 0x80));
    }
  }

  void put_text(std::string_view text) {
    put_varint(text.size());
    wire_ += text;
  }

  bool one(const Field& field) {
    switch (field.type) {
      case FieldDescriptor::CPPTYPE_STRING: {
        const auto text = string();
        if (!text) return false;
        put_tag(field, kDelimited);
        put_text(*text);
        return true;
      }
      case FieldDescriptor::CPPTYPE_MESSAGE: {
        if (!take('{')) return false;
        const std::size_t begin = open(field);
        if (!message(*field.message)) return false;
        close(begin);
        return true;
      }
      case FieldDescriptor::CPPTYPE_BOOL: {
        const bool yes = take_word("true");
        if (!yes && !take_word("false")) return false;
        put_tag(field, kVarint);
        put_varint(yes ? 1 : 0);
        return true;
      }
      case FieldDescriptor::CPPTYPE_ENUM:
        return enumerated(field);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return real<double, std::uint64_t>(field, kFixed64);
      case FieldDescriptor::CPPTYPE_FLOAT:
        return real<float, std::uint32_t>(field, kFixed32);
      case FieldDescriptor::CPPTYPE_INT32:
        return whole<std::int32_t>(field);
      case FieldDescriptor::CPPTYPE_INT64:
        return whole<std::int64_t>(field);
      case FieldDescriptor::CPPTYPE_UINT32:
        return whole<std::uint32_t>(field);
      case FieldDescriptor::CPPTYPE_UINT64:
        return whole<std::uint64_t>(field);
    }
    return false;
  }

  bool enumerated(const Field& field) {
    skip_blanks();
    if (at_ == end_ || *at_ != '"') return whole<std::int32_t>(field);  // of a later version
    const auto name = string();
    if (!name) return false;
    const auto known = field.enum_names.find(std::string(*name));
    if (known == field.enum_names.end()) return true;
    put_tag(field, kVarint);
    put_varint(static_cast<std::uint64_t>(std::int64_t{known->second}));
    return true;
  }

  /// Neither 01 nor 1., which from_chars takes as well.
  static bool is_plain(std::string_view number) {
    const auto is_digit = [&](std::size_t at) {
      return at < number.size() && number[at] >= '0' && number[at] <= '9';
    };
    if (number[0] == '0' && is_digit(1)) return false;
    const std::size_t point = number.find('.');
    return point == std::string_view::npos || is_digit(point + 1);
  }

  template <typename Number>
  std::optional<Number> number() {
    skip_blanks();
    Number read = 0;
    // from_chars takes inf and nan too, which JSON has not.
    const char* const digit = at_ != end_ && *at_ == '-' ? at_ + 1 : at_;
    if (digit == end_ || *digit < '0' || *digit > '9') return std::nullopt;
    const auto [stop, failed] = std::from_chars(at_, end_, read);
    if (failed != std::errc() || !is_plain(std::string_view(digit, stop))) return std::nullopt;
    at_ = stop;
    return read;
  }

  template <typename Number>
  bool whole(const Field& field) {
    const auto read = number<Number>();
    if (!read) return false;
    put_tag(field, kVarint);
    // A negative one is ten bytes of its sign, whatever its width.
    put_varint(static_cast<std::uint64_t>(static_cast<std::int64_t>(*read)));
    return true;
  }

  template <typename Number, typename Bits>
  bool real(const Field& field, std::uint32_t kind) {
    const auto read = number<Number>();
    if (!read) return false;
    put_tag(field, kind);
    const Bits bits = std::bit_cast<Bits>(*read);
    for (std::size_t byte = 0; byte < sizeof bits; ++byte) {
      wire_ += static_cast<char>(bits >> (8 * byte) & 0xFF);
    }
    return true;
  }

  /// Good until the next one.
  std::optional<std::string_view> string() {
    if (!take('"')) return std::nullopt;
    const char* const begin = at_;
    bool is_ascii = true;
    for (; at_ != end_ && *at_ != '"' && *at_ != '\\'; ++at_) {
      const auto byte = static_cast<unsigned char>(*at_);
      if (byte < 0x20) return std::nullopt;
      is_ascii = is_ascii && byte < 0x80;
    }
    if (at_ == end_) return std::nullopt;
    std::string_view text(begin, at_);
    if (*at_ == '\\') {
      scratch_ = text;
      if (!escaped()) return std::nullopt;
      text = scratch_;
      is_ascii = false;
    }
    ++at_;
    if (!is_ascii && !is_utf8(text)) return std::nullopt;
    return text;
  }

  static bool is_utf8(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t length = utf8_length(text, at);
      if (length == 0) return false;
      at += length;
    }
    return true;
  }

  /// From the first backslash to the closing quote, into scratch_.
  bool escaped() {
    for (; at_ != end_ && *at_ != '"'; ++at_) {
      if (static_cast<unsigned char>(*at_) < 0x20) return false;
      if (*at_ != '\\') {
        scratch_ += *at_;
        continue;
      }
      if (++at_ == end_) return false;
      constexpr std::string_view kLetters = "\"\\/bfnrt";
      constexpr std::string_view kMeant = "\"\\/\b\f\n\r\t";
      if (const std::size_t letter = kLetters.find(*at_); letter != std::string_view::npos) {
        scratch_ += kMeant[letter];
      } else if (*at_ != 'u' || !character()) {
        return false;
      }
    }
    return at_ != end_;
  }

  /// Of uXXXX; leaves at_ on the last digit.
  std::optional<std::uint32_t> unit() {
    std::uint32_t code = 0;
    if (end_ - at_ < 5) return std::nullopt;
    const auto [stop, failed] = std::from_chars(at_ + 1, at_ + 5, code, 16);
    if (failed != std::errc() || stop != at_ + 5) return std::nullopt;
    at_ += 4;
    return code;
  }

  bool character() {
    auto code = unit();
    if (!code) return false;
    if (*code >= 0xD800 && *code < 0xDC00) {
      if (end_ - at_ < 3 || at_[1] != '\\' || at_[2] != 'u') return false;
      at_ += 2;
      const auto low = unit();
      if (!low || *low < 0xDC00 || *low > 0xDFFF) return false;
      *code = 0x10000 + ((*code - 0xD800) << 10) + (*low - 0xDC00);
    }
    const auto put = [&](std::uint32_t byte) { scratch_ += static_cast<char>(byte); };
    const auto tail = [&](std::uint32_t shift) { put(0x80 | (*code >> shift & 0x3F)); };
    if (*code < 0x80) {
      put(*code);
    } else if (*code < 0x800) {
      put(0xC0 | *code >> 6);
      tail(0);
    } else if (*code < 0x10000) {
      put(0xE0 | *code >> 12);
      tail(6);
      tail(0);
    } else {
      put(0xF0 | *code >> 18);
      tail(12);
      tail(6);
      tail(0);
    }
    return true;
  }

  /// A value that nobody asked for.
  bool skip(int depth) {
    skip_blanks();
    if (at_ == end_ || depth > kDeepest) return false;
    if (*at_ == '"') return string().has_value();
    if (take_word("true") || take_word("false") || take_word("null")) return true;
    const char closing = *at_ == '{' ? '}' : *at_ == '[' ? ']' : '\0';
    if (closing == '\0') return number<double>().has_value();
    const bool named = closing == '}';
    ++at_;
    if (take(closing)) return true;
    do {
      if (named && (!string() || !take(':'))) return false;
      if (!skip(depth + 1)) return false;
    } while (take(','));
    return take(closing);
  }

  const char* at_;
  const char* end_;
  std::string& wire_;
  std::string& scratch_;
};

}  // namespace

/// The tables of the event and of all that it is made of.
class EventReader::Rules {
 public:
  static const Rules& of_the_contract() {
    static const Rules rules;
    return rules;
  }

  const Fields& event() const { return *event_; }

 private:
  Rules() : event_(&of(*v1::Event::descriptor())) {}

  const Fields& of(const Descriptor& type) {
    const auto [found, is_new] = known_.try_emplace(&type);
    // Filled in behind: a message may hold one of its own kind.
    if (is_new) found->second = std::make_unique<Fields>();
    Fields& fields = *found->second;
    if (!is_new) return fields;
    for (int number = 0; number < type.field_count(); ++number) {
      const FieldDescriptor& told = *type.field(number);
      Field field;
      field.name = told.name();
      field.type = told.cpp_type();
      field.is_repeated = told.is_repeated();
      field.is_map = told.is_map();
      field.number = static_cast<std::uint32_t>(told.number());
      if (told.message_type() != nullptr) field.message = &of(*told.message_type());
      for (int value = 0; told.enum_type() != nullptr && value < told.enum_type()->value_count();
           ++value) {
        const auto& one = *told.enum_type()->value(value);
        field.enum_names.emplace(one.name(), one.number());
      }
      fields.all.push_back(std::move(field));
    }
    return fields;
  }

  std::map<const Descriptor*, std::unique_ptr<Fields>> known_;
  const Fields* event_;
};

EventReader::EventReader() : rules_(Rules::of_the_contract()) {}
EventReader::~EventReader() = default;

bool EventReader::read(std::string_view line, v1::Event& event) {
  wire_.clear();
  return Line(line, wire_, scratch_).read(rules_.event()) && event.ParseFromString(wire_);
}

}  // namespace squall::report
