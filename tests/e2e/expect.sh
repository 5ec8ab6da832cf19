# What every case of a person meeting Squall begins with: a state directory and runs of its own, gone
# afterwards, and words for what is expected. Sourced by a script that is called with CASE DIRECTORY-OF-THE-PROGRAMS.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$2
work=$(mktemp -d /tmp/squall-e2e-XXXXXX)
export SQUALL_BIN=$bin SQUALL_STATE_DIR=$work/state SQUALL_RUNS=$work/runs
export CHECKOUT_NAME=sqe2e$$
export REPLICA_LOSS_NAME=sqe2e$$-db
checkout=$root/examples/checkout/checkout
replica_loss=$root/examples/replica-loss/replica-loss

leave() {
  local code=$?
  trap - EXIT
  [[ -z ${child:-} ]] || kill -KILL "$child" 2>/dev/null || true
  umount "$work/small" 2>/dev/null || true
  "$checkout" down || code=1
  "$replica_loss" down || code=1
  [[ -z ${terminal:-} ]] || tmux -L "$terminal" kill-server 2>/dev/null || true
  rm -rf "$work"
  exit "$code"
}
trap leave EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

# expect_code WANTED COMMAND...: its output is in $work/out, and shown.
expect_code() {
  local wanted=$1 code=0
  shift
  "$@" >"$work/out" 2>&1 || code=$?
  cat "$work/out"
  ((code == wanted)) || fail "$1 exited with $code, not $wanted"
}

# expect_text WHERE PATTERN...: each is found (extended regular expressions).
expect_text() {
  local where=$1 pattern
  shift
  for pattern in "$@"; do
    grep -qE -- "$pattern" "$where" || fail "$pattern is not in $(basename "$where")"
  done
}

expect_no_text() { ! grep -E -- "$2" "$1" || fail "$2 is in $(basename "$1")"; }

# The folder of the only run.
run_folder() {
  local folders=("$SQUALL_RUNS"/*/)
  [[ ${#folders[@]} == 1 && -d ${folders[0]} ]] || fail "there is not one run in $SQUALL_RUNS"
  printf '%s' "${folders[0]%/}"
}

expect_complete_log() {
  local log
  log=$(run_folder)/events.jsonl
  tail -n 1 "$log" | grep -q '"run_ended"' || fail 'the log does not end with the end of the run'
  expect_text "$log" "\"exit_code\": ?$1\b"
}

# until_text SECONDS FILE PATTERN
until_text() {
  local end=$((SECONDS + $1))
  until grep -qsE -- "$3" "$2"; do
    ((SECONDS < end)) || fail "$3 did not come within $1 s"
    sleep 0.02
  done
}

no_daemon_is_left() {
  local pid
  for pid in /proc/[0-9]*; do
    # Gone while we look is as good as never there.
    if tr '\0' ' ' 2>/dev/null <"$pid/cmdline" | grep -qF -- "$work/"; then
      [[ ${pid#/proc/} == "$$" ]] || fail "still running: $(tr '\0' ' ' <"$pid/cmdline")"
    fi
  done
}
