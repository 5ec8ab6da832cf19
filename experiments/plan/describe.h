/// \file
/// What the declarations say of a word of the plan language, in words: the same ones on a terminal,
/// on a page of the docs and in an editor.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "experiments/plan/declared.h"

namespace squall::plan {

/// A message that is written as a mapping, and the word that it is looked up by.
struct Page {
  std::string word;
  const Descriptor* type;
};

/// All that a plan or a node's guardrails spell out, in the order in which they come to it.
const std::vector<Page>& pages();

/// How a message is called where words have no blanks: gilbert_elliott.
std::string word_of(const Descriptor& message);

/// The fields of one level as a plan has them: those of inline messages are among them, those that
/// only programs write are not.
std::vector<const FieldDescriptor*> fields_of(const Descriptor& message);

/// Exactly one of these stands in a message.
struct Choice {
  std::vector<std::string> words;
  bool required = false;
};

/// The choices of one level; those of an inline message count among those of the one that it is
/// written in.
std::vector<Choice> choices_of(const Descriptor& message);

/// What is told of a field, whoever it is told to.
struct FieldDescription {
  std::string name;
  std::string type;  ///< What it is written as: duration, list of ports, names to texts.
  std::string page;  ///< The word that has a page on what is in it; empty: none has.
  std::string help;
  std::vector<std::string> conditions;  ///< required; 1us to 60s; only with `delay`.
  std::string default_value;
  std::vector<std::string> examples;
};

FieldDescription describe(const FieldDescriptor& field);

/// What is told of a page.
struct Description {
  std::string word;
  std::string help;
  std::vector<FieldDescription> fields;
  std::vector<std::string> rules;  ///< Sentences about several of them.
  std::vector<std::string> metrics;
  std::vector<std::string> states;
  std::string example;
};

Description describe(const Page& page);

/// What is written where a number stands, and is no message of its own: quantity, ramp, find.
std::vector<Description> describe_values();

std::string lower_case(std::string_view text);

}  // namespace squall::plan
