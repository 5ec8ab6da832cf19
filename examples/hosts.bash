# Sourced by the examples: hosts that are network namespaces, on one switch, each with a squalld and services of its own.
# shellcheck shell=bash
#
# What sources it says who they are, before:
#   example      what it is called in messages: checkout
#   name         of the namespaces, NAME-HOST; another name makes the same beside the first
#   network      their addresses but for the last number: 10.77.0
#   hosts        those with a squalld; client, which holds the switch and runs squall, comes on top
#   number       the last number of each one's address
#   here         the folder of the example, with its plans
#   start_services HOST   a function
# and calls `main "$@"`.

: "${here:?}" "${example:?}" "${name:?}" "${network:?}" "${hosts[0]:?}" "${number[client]:?}"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${SQUALL_BIN:-$root/build/bin}
runs=${SQUALL_RUNS:-$root/build/$example/runs}
dir=/run/squall-$name  # everything that is written but the runs

address_of() { printf '%s.%s' "$network" "${number[$1]}"; }

fail() {
  printf '%s: %s\n' "$example" "$*" >&2
  exit 1
}

in_netns() {
  local host=$1
  shift
  ip netns exec "$name-$host" "$@"
}

netns_exists() { [[ -e /run/netns/$name-$1 ]]; }

# until_true SECONDS COMMAND...: waits until the command succeeds.
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.02
  done
}

# --- making ---

make_certificates() {
  local tls=$dir/tls host
  [[ -d $tls ]] && return
  mkdir -m 700 "$tls.new"
  (
    cd "$tls.new"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=the CA of $example" \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem
    for host in client "${hosts[@]}"; do
      mkdir "$host"
      openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$host" \
        -keyout "$host/key.pem" -out "$host/request.pem"
      openssl x509 -req -in "$host/request.pem" -CA ca.pem -CAkey ca.key -days 30 -out "$host/cert.pem" -extfile - \
        <<<"subjectAltName=DNS:$host,IP:$(address_of "$host")
            extendedKeyUsage=serverAuth,clientAuth"
      cp ca.pem "$host/ca.pem"
      rm "$host/request.pem"
    done
    rm ca.key
  ) 2>"$dir/openssl.log" || fail "openssl could not make the certificates; see $dir/openssl.log"
  mv "$tls.new" "$tls"
}

# The client's namespace holds the switch; nothing is made outside of the namespaces.
make_network() {
  local host
  [[ -e $dir/network-is-made ]] && return
  delete_network
  for host in client "${hosts[@]}"; do
    ip netns add "$name-$host"
    ip -n "$name-$host" link set lo up
  done
  ip -n "$name-client" link add switch type bridge
  ip -n "$name-client" link set switch addrgenmode none
  ip -n "$name-client" address add "$(address_of client)/24" dev switch
  ip -n "$name-client" link set switch up
  for host in "${hosts[@]}"; do
    ip -n "$name-client" link add "$host" type veth peer name eth0 netns "$name-$host"
    ip -n "$name-client" link set "$host" addrgenmode none master switch up
    ip -n "$name-$host" link set eth0 addrgenmode none
    ip -n "$name-$host" address add "$(address_of "$host")/24" dev eth0
    ip -n "$name-$host" link set eth0 up
  done
  touch "$dir/network-is-made"
}

delete_network() {
  local host
  for host in client "${hosts[@]}"; do
    ! netns_exists "$host" || ip netns delete "$name-$host"
  done
}

# listens HOST PORT
listens() { [[ -n $(in_netns "$1" ss -Hltn "sport = :$2") ]]; }

# start HOST PORT PROGRAM...: in the background, unless something listens there already.
start() {
  local host=$1 port=$2 program=${3##*/}
  shift 2
  listens "$host" "$port" && return
  setsid ip netns exec "$name-$host" "$@" >>"$dir/$host/$program.log" 2>&1 </dev/null &
  disown  # a plan may kill it, which is no news of ours
  until_true 10 listens "$host" "$port" || {
    tail -n 5 "$dir/$host/$program.log" >&2
    fail "$program does not come up on $host; its last words are above"
  }
}

up() {
  local host
  for host in client "${hosts[@]}"; do
    [[ -d $dir ]] || ! netns_exists "$host" ||
      fail "there is a network namespace $name-$host already that is not ours; set another name, see ./$example help"
  done
  [[ -d $dir ]] || mkdir -m 711 "$dir"
  exec 9>"$dir/lock"
  flock -w 30 9 || fail "another $example is at work"
  make_certificates
  make_network
  for host in "${hosts[@]}"; do
    mkdir -p "$dir/$host/state"
    start_services "$host" 9>&-
    start "$host" 7411 "$bin/squalld" --state-dir "$dir/$host/state" --listen "$(address_of "$host"):7411" \
      --tls-dir "$dir/tls/$host" 9>&-
  done
  exec 9>&-
}

# --- removing ---

signal_all() {
  local host pids
  for host in client "${hosts[@]}"; do
    netns_exists "$host" || continue
    pids=$(ip netns pids "$name-$host")
    # shellcheck disable=SC2086  # one argument a process
    [[ -z $pids ]] || kill -s "$1" -- $pids 2>/dev/null || true
  done
}

nobody_left() {
  local host
  for host in client "${hosts[@]}"; do
    netns_exists "$host" || continue
    [[ -z $(ip netns pids "$name-$host") ]] || return 1
  done
}

down() {
  trap '' INT TERM  # half of it would be left behind
  local host
  [[ -d $dir ]] || return 0
  signal_all TERM
  until_true 5 nobody_left || {
    signal_all KILL
    until_true 5 nobody_left || fail "processes are left in the namespaces $name-*"
  }
  delete_network
  rm -rf "$dir"
}

# --- using ---

run() {
  local plan=$1 code=0
  shift
  [[ -e $plan || ! -e $here/$plan ]] || plan=$here/$plan
  if [[ ! -d $dir ]]; then
    trap down EXIT
    # The plan's own end comes first: squall hears the same Ctrl-C, reverts, and leaves.
    trap : INT TERM
  fi
  up
  in_netns client "$bin/squall" run "$plan" --tls-dir "$dir/tls/client" --runs-dir "$runs" "$@" || code=$?
  return "$code"
}

fingerprint() {
  local host
  [[ -d $dir ]] || fail "nothing is up; ./$example up"
  for host in client "${hosts[@]}"; do
    printf '%s\n' "--- $host"
    in_netns "$host" "$bin/squall-hold" --read
  done
}

main() {
  local command=${1:-help}
  (($# == 0)) || shift
  case $command in
    up | down | run | in | fingerprint)
      ((EUID == 0)) || fail 'network namespaces need root'
      [[ -x $bin/squall ]] || fail "no squall in $bin; run ./dev build, or set SQUALL_BIN"
      ;;
  esac
  case $command in
    up | down | fingerprint) "$command" ;;
    run)
      (($# >= 1)) || fail 'run needs a plan'
      run "$@"
      ;;
    in)
      (($# >= 2)) || fail 'in needs a host and a program'
      [[ -d $dir ]] || fail "nothing is up; ./$example up"
      in_netns "$@"
      ;;
    help | -h | --help) usage ;;
    *)
      usage >&2
      fail "there is no command '$command'"
      ;;
  esac
}
