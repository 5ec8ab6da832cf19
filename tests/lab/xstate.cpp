/// \file
/// ptrace(2) for User-Mode Linux, loaded before it, on processors whose registers it does not know.
///
/// Its kernel keeps the extended registers of a process in a buffer of the size that processors had
/// when it was built, and reads and writes them with PTRACE_GETREGSET and PTRACE_SETREGSET. Reading
/// less than there is is allowed; writing less is not, and where a processor has AMX the kernel
/// panics at its first process. What it does not know of, no process of its own can use, so that
/// it can be put back as it was. Source: xstateregs_set() in arch/x86/kernel/fpu/regset.c,
/// arch/x86/um/os-Linux/registers.c.
#include <elf.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstring>

namespace {

/// The largest that a processor has today is 11 KiB. Not on the stack, of which that kernel has
/// little; it is one thread.
alignas(64) std::array<char, 32 * 1024> whole;

/// Writes the registers that are told, and of all others what they are.
long set_all(pid_t pid, const iovec& told) {
  iovec all{whole.data(), whole.size()};
  if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all) < 0) return -1;
  std::memcpy(whole.data(), told.iov_base, std::min(told.iov_len, all.iov_len));
  return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

}  // namespace

// NOLINTNEXTLINE(cert-dcl50-cpp): as <sys/ptrace.h> declares it
extern "C" long ptrace(enum __ptrace_request request, ...) noexcept {
  va_list words;
  va_start(words, request);
  const auto pid = va_arg(words, pid_t);
  auto* const place = va_arg(words, void*);
  auto* data = va_arg(words, void*);
  va_end(words);
  // As the C library has it: what is peeked at is returned. Source: ptrace(2), NOTES.
  long seen = 0;
  const bool peeks =
      request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER;
  if (peeks) data = &seen;
  long result = syscall(SYS_ptrace, request, pid, place, data);
  const bool writes_registers =
      request == PTRACE_SETREGSET && reinterpret_cast<std::uintptr_t>(place) == NT_X86_XSTATE;
  if (result < 0 && writes_registers && (errno == EFAULT || errno == EINVAL)) {
    result = set_all(pid, *static_cast<const iovec*>(data));
  }
  if (peeks && result >= 0) {
    errno = 0;
    return seen;
  }
  return result;
}
