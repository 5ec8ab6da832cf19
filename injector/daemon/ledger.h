/// \file
/// The write-ahead journal of undos: what must be undone if everything else is lost. docs/ledger.md
/// has the format.
///
/// A record is written before the change it undoes is made, and it is on the disk as well
/// (fdatasync) if any of its undos is still needed after the machine's next boot. Whatever happens
/// to the file, the longest valid prefix is what it says: a torn or flipped tail costs at most the
/// records it hit.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/status.h"
#include "squall/v1/ledger.pb.h"

namespace squall::daemon {

/// What a ledger says in sum.
struct LedgerContent {
  std::vector<v1::LedgerOpened> open;           ///< Opened and not closed, oldest first.
  std::map<std::string, std::uint64_t> epochs;  ///< The highest of each run.
  std::size_t valid_bytes = 0;                  ///< The prefix that was understood.
  bool damaged = false;                         ///< There was more than that.
};

/// Remembers the run's epoch if it is its highest, and forgets another run's where there are too
/// many of them: the first by name, which is the oldest, as runs are named by their time.
void remember_epoch(std::map<std::string, std::uint64_t>& epochs, const std::string& run,
                    std::uint64_t epoch);

/// Whether the boot that it is of takes away whatever it undoes, as it does with the kernel's
/// objects and not with files. Not of an undo of another version, of which nobody here can tell.
bool ends_with_boot(const v1::Undo& undo);

/// Whether a record must outlast a power cut, not only the death of every process of ours: none but
/// one that is opened does, and that only if not all of its undos end with the boot.
bool must_be_on_disk(const v1::LedgerRecord& record);

/// Whether the file system of this file tells at once that it is full, and keeps in memory what was
/// written until it is on the disk, whoever dies meanwhile. Only of those that are known for it:
/// one across a network may tell when it is synced, and drop what it could not write.
bool keeps_what_is_written(int file);

/// The file's first bytes.
std::string ledger_header();

/// One frame: length, CRC-32C, record.
std::string ledger_frame(const v1::LedgerRecord& record);

/// Never fails: garbage is an empty ledger that is damaged.
LedgerContent read_ledger(const std::string& bytes);

/// The file. Used by one thread at a time; not thread-safe.
class Ledger {
 public:
  /// Reads what is there; creates it if nothing is. Where nothing can be written, the disk is full
  /// say, it is still read, so that what it names can be swept, and refuses records until it can
  /// be. Errors: kPermissionDenied and the like, where there is a file that cannot be read.
  static StatusOr<Ledger> open(const std::string& path);

  /// What open() found, and what was written since.
  const LedgerContent& content() const { return content_; }

  /// Appends, and returns when the record outlasts what it must: every process of ours, if it is
  /// opened; also a power cut, with all that was appended before it, if it must_be_on_disk(). After
  /// an error the file is as before, or the ledger refuses every further record.
  Status append(const v1::LedgerRecord& record);

  /// Writes a new file with nothing but what still matters, and puts it in the old one's place.
  Status compact();

  std::size_t size() const { return size_; }

 private:
  Ledger() = default;

  std::string path_;
  Fd file_;
  std::size_t size_ = 0;
  Status broken_;               ///< Why nothing can be appended.
  bool keeps_written_ = false;  ///< As keeps_what_is_written() says of the file.
  LedgerContent content_;
};

}  // namespace squall::daemon
