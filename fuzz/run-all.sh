#!/usr/bin/env bash
# Runs every fuzz target, one after the other, for SECONDS each (default 60) from the seeds in the tree:
#   fuzz/run-all.sh [SECONDS [TARGET…]]
# Needs a nightly toolchain and cargo-fuzz. fuzz/hours.tsv adds up how long each target has run without a finding, in seconds of CPU
# time: a run beside other work (PRIORITY="chrt -i 0" INPUT_SECONDS=60) counts for what it did. A finding sets its target back to zero. What is
# found lies in fuzz/artifacts; exit status: how many targets found something.
set -u
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
if [ $# = 0 ]; then mapfile -t targets < <(cargo +nightly fuzz list); else targets=("$@"); fi
found=0
# add TARGET SECONDS|reset: keeps the table, sorted by target.
add() {
  python3 - "$@" <<'END'
import fcntl, pathlib, sys
target, seconds = sys.argv[1:]
lock = open("fuzz/run-all.sh")
fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be adding
table = pathlib.Path("fuzz/hours.tsv")
rows = dict(line.split("\t") for line in table.read_text().splitlines()[1:]) if table.exists() else {}
rows[target] = "0" if seconds == "reset" else str(int(rows.get(target, 0)) + round(float(seconds)))
table.write_text("target\tCPU seconds without a finding\n" + "".join(f"{t}\t{s}\n" for t, s in sorted(rows.items())))
END
}
cargo +nightly fuzz build || exit 1
TIMEFORMAT="%U %S"
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" "fuzz/seeds/$target"
  log=$(mktemp)
  # Memory and time are bounded: what takes more than INPUT_SECONDS for one input is a finding.
  # shellcheck disable=SC2086 # PRIORITY is a command with its arguments
  if { time ${PRIORITY:-nice} cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    "-max_total_time=$seconds" -rss_limit_mb=2048 "-timeout=${INPUT_SECONDS:-10}" -print_final_stats=1 >"$log" 2>&1; } 2>"$log.cpu"; then
    word=clean
    add "$target" "$(awk '{ print $1 + $2 }' "$log.cpu")"
  else
    word=FOUND found=$((found + 1))
    add "$target" reset
    grep -aE 'panicked|ERROR|SUMMARY|Test unit written' "$log" | head -8
  fi
  printf '%-12s %-6s %s executions\n' "$target" "$word" "$(grep -a number_of_executed_units "$log" | grep -oE '[0-9]+$')"
  rm -f "$log" "$log.cpu"
done
exit "$found"
