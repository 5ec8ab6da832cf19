#include "experiments/base/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "experiments/base/fd.h"

namespace squall {

int read_rest(int file, std::string& text, std::size_t most) {
  std::array<char, 1 << 14> part{};
  for (;;) {
    const ssize_t got = ::read(file, part.data(), part.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return 0;
    if (static_cast<std::size_t>(got) > most - text.size()) return EFBIG;
    text.append(part.data(), static_cast<std::size_t>(got));
  }
}

StatusOr<std::string> read_whole(const std::string& path, std::size_t most) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return from_errno(path, errno);
  std::string text;
  if (const int problem = read_rest(file.number(), text, most)) return from_errno(path, problem);
  return text;
}

StatusOr<std::string> read_pem(const std::string& path) {
  constexpr std::size_t kLargestPem = std::size_t{1} << 20U;
  auto text = read_whole(path, kLargestPem);
  if (text.ok() && text->find("-----BEGIN ") == std::string::npos) {
    return error(StatusCode::kInvalidArgument, path + ": is not a PEM file");
  }
  return text;
}

}  // namespace squall
