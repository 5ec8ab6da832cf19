#include "injector/faults/file_calls.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <string_view>

namespace squall::hold {
namespace {

struct Row {
  std::uint64_t number;
  FileCall files;
};

constexpr FileArgument by_fd(v1::FileOperation operation, std::uint8_t index = 0) {
  return {operation, FileArgument::kDescriptor, index};
}

constexpr FileArgument by_name(v1::FileOperation operation, std::uint8_t index = 0) {
  return {operation, FileArgument::kName, index};
}

constexpr FileArgument by_name_at(v1::FileOperation operation, std::uint8_t index = 0) {
  return {operation, FileArgument::kNameAt, index};
}

/// Source: syscalls(2). Calls that newer architectures lack are there where they are.
constexpr Row kRows[] = {
#ifdef SYS_open
    {SYS_open, {by_name(v1::OPEN)}},
    {SYS_creat, {by_name(v1::OPEN)}},
#endif
    {SYS_openat, {by_name_at(v1::OPEN)}},
    {SYS_openat2, {by_name_at(v1::OPEN)}},

    {SYS_read, {by_fd(v1::READ)}},
    {SYS_pread64, {by_fd(v1::READ)}},
    {SYS_readv, {by_fd(v1::READ)}},
    {SYS_preadv, {by_fd(v1::READ)}},
    {SYS_preadv2, {by_fd(v1::READ)}},
#ifdef SYS_getdents
    {SYS_getdents, {by_fd(v1::READ)}},
#endif
    {SYS_getdents64, {by_fd(v1::READ)}},

    {SYS_sendfile, {by_fd(v1::READ, 1), by_fd(v1::WRITE, 0)}},
    {SYS_splice, {by_fd(v1::READ, 0), by_fd(v1::WRITE, 2)}},
    {SYS_copy_file_range, {by_fd(v1::READ, 0), by_fd(v1::WRITE, 2)}},

    {SYS_write, {by_fd(v1::WRITE)}},
    {SYS_pwrite64, {by_fd(v1::WRITE)}},
    {SYS_writev, {by_fd(v1::WRITE)}},
    {SYS_pwritev, {by_fd(v1::WRITE)}},
    {SYS_pwritev2, {by_fd(v1::WRITE)}},
    {SYS_truncate, {by_name(v1::WRITE)}},
    {SYS_ftruncate, {by_fd(v1::WRITE)}},
    {SYS_fallocate, {by_fd(v1::WRITE)}},

    {SYS_fsync, {by_fd(v1::FSYNC)}},
    {SYS_fdatasync, {by_fd(v1::FSYNC)}},
    {SYS_sync_file_range, {by_fd(v1::FSYNC)}},
    {SYS_syncfs, {by_fd(v1::FSYNC)}},

#ifdef SYS_stat
    {SYS_stat, {by_name(v1::LOOKUP)}},
    {SYS_lstat, {by_name(v1::LOOKUP)}},
    {SYS_access, {by_name(v1::LOOKUP)}},
    {SYS_readlink, {by_name(v1::LOOKUP)}},
#endif
    {SYS_fstat, {by_fd(v1::LOOKUP)}},
    {SYS_newfstatat, {by_name_at(v1::LOOKUP)}},
    {SYS_statx, {by_name_at(v1::LOOKUP)}},
    {SYS_faccessat, {by_name_at(v1::LOOKUP)}},
    {SYS_faccessat2, {by_name_at(v1::LOOKUP)}},
    {SYS_readlinkat, {by_name_at(v1::LOOKUP)}},
    {SYS_getxattr, {by_name(v1::LOOKUP)}},
    {SYS_lgetxattr, {by_name(v1::LOOKUP)}},
    {SYS_fgetxattr, {by_fd(v1::LOOKUP)}},
    {SYS_listxattr, {by_name(v1::LOOKUP)}},
    {SYS_llistxattr, {by_name(v1::LOOKUP)}},
    {SYS_flistxattr, {by_fd(v1::LOOKUP)}},

#ifdef SYS_mkdir
    {SYS_mkdir, {by_name(v1::CREATE)}},
    {SYS_rmdir, {by_name(v1::CREATE)}},
    {SYS_mknod, {by_name(v1::CREATE)}},
    {SYS_unlink, {by_name(v1::CREATE)}},
    {SYS_rename, {by_name(v1::CREATE, 0), by_name(v1::CREATE, 1)}},
    {SYS_link, {by_name(v1::CREATE, 0), by_name(v1::CREATE, 1)}},
    {SYS_symlink, {by_name(v1::CREATE, 1)}},
#endif
    {SYS_mkdirat, {by_name_at(v1::CREATE)}},
    {SYS_mknodat, {by_name_at(v1::CREATE)}},
    {SYS_unlinkat, {by_name_at(v1::CREATE)}},
#ifdef SYS_renameat
    {SYS_renameat, {by_name_at(v1::CREATE, 0), by_name_at(v1::CREATE, 2)}},
#endif
    {SYS_renameat2, {by_name_at(v1::CREATE, 0), by_name_at(v1::CREATE, 2)}},
    {SYS_linkat, {by_name_at(v1::CREATE, 0), by_name_at(v1::CREATE, 2)}},
    {SYS_symlinkat, {by_name_at(v1::CREATE, 1)}},
};

constexpr std::uint64_t most_of(const Row* rows, std::size_t count) {
  std::uint64_t most = 0;
  for (std::size_t i = 0; i < count; ++i) most = std::max(most, rows[i].number);
  return most;
}

constexpr auto kByNumber = [] {
  std::array<const FileCall*, most_of(kRows, std::size(kRows)) + 1> calls{};
  for (const Row& row : kRows) calls[row.number] = &row.files;
  return calls;
}();

std::optional<std::string> link_of(std::uint32_t tid, const std::string& name) {
  std::array<char, PATH_MAX> target{};
  const std::string link = "/proc/" + std::to_string(tid) + "/" + name;
  const ssize_t size = ::readlink(link.c_str(), target.data(), target.size());
  if (size < 0) return std::nullopt;
  return std::string(target.data(), static_cast<std::size_t>(size));
}

/// Of what is open.
std::optional<std::string> path_of_descriptor(std::uint32_t tid, int number) {
  auto path = link_of(tid, "fd/" + std::to_string(number));
  if (!path || !path->starts_with('/')) return std::nullopt;  // a socket, a pipe, closed
  constexpr std::string_view kDeleted = " (deleted)";
  if (path->ends_with(kDeleted)) path->resize(path->size() - kDeleted.size());
  return path;
}

/// A string of its memory, read page by page: what is behind its end may not be there.
std::optional<std::string> string_at(std::uint32_t tid, std::uint64_t address) {
  constexpr std::uint64_t kPage = 4096;
  std::string text;
  std::array<char, kPage> part{};
  while (text.size() < PATH_MAX) {
    const std::uint64_t size = kPage - address % kPage;
    iovec here{.iov_base = part.data(), .iov_len = size};
    iovec there{.iov_base = std::bit_cast<void*>(static_cast<std::uintptr_t>(address)),
                .iov_len = size};
    const ssize_t got = ::process_vm_readv(static_cast<pid_t>(tid), &here, 1, &there, 1, 0);
    if (got <= 0) return std::nullopt;
    const std::string_view read(part.data(), static_cast<std::size_t>(got));
    text += read.substr(0, read.find('\0'));
    if (read.find('\0') != read.npos) return text;
    address += read.size();
  }
  return std::nullopt;
}

}  // namespace

#if defined(__x86_64__)
const std::uint32_t kCallsOf = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
const std::uint32_t kCallsOf = AUDIT_ARCH_AARCH64;
#else
const std::uint32_t kCallsOf = 0;
#endif

const FileCall* find_file_call(std::uint64_t number) {
  return number < kByNumber.size() ? kByNumber[number] : nullptr;
}

std::optional<std::string> path_of(std::uint32_t tid, const FileArgument& file,
                                   const std::array<std::uint64_t, 6>& arguments) {
  // The kernel takes 32 bits of a descriptor, whatever is above them.
  const int number = static_cast<int>(static_cast<std::uint32_t>(arguments[file.index]));
  if (file.kind == FileArgument::kDescriptor) return path_of_descriptor(tid, number);
  const bool is_at = file.kind == FileArgument::kNameAt;
  const auto name = string_at(tid, arguments[file.index + (is_at ? 1U : 0U)]);
  if (!name) return std::nullopt;
  const std::filesystem::path written = std::filesystem::path(*name).lexically_normal();
  std::optional<std::string> from;
  if (written.is_absolute()) {
    from = link_of(tid, "root");
  } else if (is_at && number != AT_FDCWD) {
    from = path_of_descriptor(tid, number);
  } else {
    from = link_of(tid, "cwd");
  }
  if (!from) return std::nullopt;
  return std::filesystem::path(*from + "/" + written.string()).lexically_normal().string();
}

}  // namespace squall::hold
