#include "experiments/base/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "experiments/base/fd.h"

namespace squall {

StatusOr<std::string> read_whole(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return from_errno(path, errno);
  std::string text;
  std::array<char, 1 << 14> part{};
  for (;;) {
    const ssize_t got = ::read(file.number(), part.data(), part.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return from_errno(path, errno);
    if (got == 0) return text;
    text.append(part.data(), static_cast<std::size_t>(got));
    if (text.size() > kLargestFile) {
      return error(StatusCode::kResourceExhausted, path + ": is larger than 64 MiB");
    }
  }
}

StatusOr<std::string> read_pem(const std::string& path) {
  auto text = read_whole(path);
  if (text.ok() && text->find("-----BEGIN ") == std::string::npos) {
    return error(StatusCode::kInvalidArgument, path + ": is not a PEM file");
  }
  return text;
}

}  // namespace squall
