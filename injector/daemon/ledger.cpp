#include "injector/daemon/ledger.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <boost/crc.hpp>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <utility>

#include "experiments/base/failpoint.h"
#include "experiments/base/file.h"
#include "squall/v1/options.pb.h"

namespace squall::daemon {
namespace {

constexpr std::string_view kHeader = "SQLEDG1\n";
constexpr std::size_t kFrameHead = 8;
constexpr std::size_t kLargestRecord = 1U << 20U;
constexpr std::size_t kRememberedRuns = 1000;

/// CRC-32C (Castagnoli), as iSCSI and ext4 use it. Source: RFC 3720, appendix B.4.
std::uint32_t crc32c(std::string_view bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(bytes.data(), bytes.size());
  return crc.checksum();
}

void put_32(std::string& bytes, std::uint32_t number) {
  for (unsigned shift = 0; shift < 32; shift += 8) {
    bytes += static_cast<char>((number >> shift) & 0xFFU);
  }
}

std::uint32_t take_32(std::string_view bytes) {
  std::uint32_t number = 0;
  for (std::size_t i = 4; i-- > 0;) number = number << 8U | static_cast<unsigned char>(bytes[i]);
  return number;
}

void apply(LedgerContent& content, const v1::LedgerRecord& record) {
  const auto is = [&](const std::string& fault) {
    return [&fault](const v1::LedgerOpened& opened) { return opened.fault() == fault; };
  };
  if (record.has_opened()) {
    std::erase_if(content.open, is(record.opened().fault()));
    content.open.push_back(record.opened());
  } else if (record.has_closed()) {
    std::erase_if(content.open, is(record.closed().fault()));
  } else if (record.has_lease()) {
    remember_epoch(content.epochs, record.lease().run(), record.lease().epoch());
  }
}

Status write_all(int file, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return from_errno("writing", errno);
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return ok();
}

StatusOr<std::string> read_all(int file) {
  std::string bytes;
  if (const int problem = read_rest(file, bytes)) return from_errno("reading", problem);
  return bytes;
}

}  // namespace

void remember_epoch(std::map<std::string, std::uint64_t>& epochs, const std::string& run,
                    std::uint64_t epoch) {
  std::uint64_t& known = epochs[run];
  known = std::max(known, epoch);
  if (epochs.size() <= kRememberedRuns) return;
  const auto first = epochs.begin();
  epochs.erase(first->first == run ? std::next(first) : first);
}

bool ends_with_boot(const v1::Undo& undo) {
  const auto* what = v1::Undo::descriptor()->FindFieldByNumber(undo.what_case());
  return what != nullptr &&
         !what->message_type()->options().GetExtension(v1::message_rules).outlives_boot();
}

bool must_be_on_disk(const v1::LedgerRecord& record) {
  const auto& undos = record.opened().undos();
  return !std::all_of(undos.begin(), undos.end(), ends_with_boot);
}

bool keeps_what_is_written(int file) {
  struct statfs about {};
  if (::fstatfs(file, &about) != 0) return false;
  // One laid over others writes to its upper layer, which the kernel wants to be like these.
  constexpr long kKnown[] = {EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC,
                             OVERLAYFS_SUPER_MAGIC};
  return std::find(std::begin(kKnown), std::end(kKnown), about.f_type) != std::end(kKnown);
}

std::string ledger_header() { return std::string(kHeader); }

std::string ledger_frame(const v1::LedgerRecord& record) {
  const std::string payload = record.SerializeAsString();
  std::string frame;
  put_32(frame, static_cast<std::uint32_t>(payload.size()));
  // Over the length as well: a flipped length must not make a valid frame of other bytes.
  put_32(frame, crc32c(frame + payload));
  return frame + payload;
}

LedgerContent read_ledger(const std::string& bytes) {
  LedgerContent content;
  if (!bytes.starts_with(kHeader)) {
    content.damaged = !bytes.empty();
    return content;
  }
  std::string_view rest(bytes);
  rest.remove_prefix(kHeader.size());
  while (rest.size() >= kFrameHead) {
    const std::size_t length = take_32(rest);
    if (length > kLargestRecord || rest.size() - kFrameHead < length) break;
    const std::string_view payload = rest.substr(kFrameHead, length);
    if (take_32(rest.substr(4)) != crc32c(std::string(rest.substr(0, 4)).append(payload))) {
      break;
    }
    v1::LedgerRecord record;
    if (!record.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) break;
    apply(content, record);
    rest.remove_prefix(kFrameHead + length);
  }
  content.valid_bytes = bytes.size() - rest.size();
  content.damaged = !rest.empty();
  return content;
}

StatusOr<Ledger> Ledger::open(const std::string& path) {
  Ledger ledger;
  ledger.path_ = path;
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.is_open() && errno != ENOENT) return from_errno(path, errno);
  if (file.is_open()) {
    const StatusOr<std::string> bytes = read_all(file.number());
    if (!bytes.ok()) return in_context(path, bytes.status());
    ledger.content_ = read_ledger(*bytes);
  }
  // A new file afresh: what was damaged is left out, and the first append finds a place that can be
  // trusted.
  ledger.broken_ = ledger.compact();
  return ledger;
}

Status Ledger::append(const v1::LedgerRecord& record) {
  if (!broken_.ok()) {
    broken_ = compact();
    if (!broken_.ok()) return broken_;
  }
  const std::string frame = ledger_frame(record);
  Status status = write_all(file_.number(), frame);
  failpoint<"ledger.written">();
  if (status.ok() && (must_be_on_disk(record) || (record.has_opened() && !keeps_written_))) {
    // The kernel tells once of a page that it could not write, and the next sync succeeds with a
    // hole in front of it: after that only a file that is written anew can be trusted.
    if (::fdatasync(file_.number()) != 0) status = broken_ = from_errno("syncing", errno);
    failpoint<"ledger.synced">();
  }
  failpoint<"ledger.appended">();
  if (!status.ok()) {
    // Half a frame would hide every later one.
    if (::ftruncate(file_.number(), static_cast<off_t>(size_)) != 0 ||
        ::lseek(file_.number(), static_cast<off_t>(size_), SEEK_SET) < 0) {
      broken_ = status;
    }
    return in_context(path_, status);
  }
  size_ += frame.size();
  apply(content_, record);
  return ok();
}

Status Ledger::compact() {
  std::string bytes(kHeader);
  v1::LedgerRecord record;
  for (const auto& [run, epoch] : content_.epochs) {
    record.mutable_lease()->set_run(run);
    record.mutable_lease()->set_epoch(epoch);
    bytes += ledger_frame(record);
  }
  for (const v1::LedgerOpened& opened : content_.open) {
    *record.mutable_opened() = opened;
    bytes += ledger_frame(record);
  }
  const std::string fresh = path_ + ".new";
  Fd file(::open(fresh.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.is_open()) return from_errno(fresh, errno);
  Status status = write_all(file.number(), bytes);
  if (status.ok() && ::fsync(file.number()) != 0) status = from_errno("syncing", errno);
  failpoint<"ledger.written_anew">();
  if (status.ok() && std::rename(fresh.c_str(), path_.c_str()) != 0) {
    status = from_errno("renaming", errno);
  }
  failpoint<"ledger.replaced">();
  if (!status.ok()) {
    ::unlink(fresh.c_str());
    return in_context(fresh, status);
  }
  const Fd folder(::open(std::filesystem::path(path_).parent_path().c_str(),
                         O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.is_open()) ::fsync(folder.number());
  file_ = std::move(file);
  keeps_written_ = keeps_what_is_written(file_.number());
  size_ = bytes.size();
  return ok();
}

}  // namespace squall::daemon
