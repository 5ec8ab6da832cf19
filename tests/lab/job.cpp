#include "tests/lab/job.h"

#include <fstream>
#include <stdexcept>

namespace squall::lab {

void write_job(const std::filesystem::path& results, const Job& job) {
  std::ofstream file(results / "job");
  file << job.directory.native() << '\n'
       << job.seconds_per_case << '\n'
       << job.program.native() << '\n';
  for (const std::string& name : job.cases) file << name << '\n';
  file.close();
  if (!file) throw std::runtime_error("cannot write " + (results / "job").native());
}

std::optional<Job> read_job(const std::filesystem::path& results) {
  std::ifstream file(results / "job");
  Job job;
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  job.directory = line;
  if (!std::getline(file, line)) return std::nullopt;
  job.seconds_per_case = std::stoi(line);
  if (!std::getline(file, line)) return std::nullopt;
  job.program = line;
  while (std::getline(file, line)) job.cases.push_back(line);
  return job;
}

std::filesystem::path output_file(const std::filesystem::path& results, std::size_t index) {
  return results / (std::to_string(index) + ".out");
}

std::filesystem::path status_file(const std::filesystem::path& results, std::size_t index) {
  return results / (std::to_string(index) + ".status");
}

std::optional<int> status_of(const std::filesystem::path& results, std::size_t index) {
  std::ifstream file(status_file(results, index));
  int status = 1;
  return file >> status ? std::optional(status) : std::nullopt;
}

std::string escape_commas(const std::string& name) {
  std::string escaped;
  for (const char letter : name) {
    if (letter == ',') escaped += '\\';
    escaped += letter;
  }
  return escaped;
}

std::string unescape_commas(const std::string& name) {
  std::string plain;
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '\\' && i + 1 < name.size() && name[i + 1] == ',') continue;
    plain += name[i];
  }
  return plain;
}

}  // namespace squall::lab
