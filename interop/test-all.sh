#!/usr/bin/env bash
# Installs what the tests need (Debian packages, as root) and runs them all: format, lints, unit and integration
# tests, then real clients against the release binary on loopback ports that each script picks.
# What can't run here is reported as skipped, by name. Exit status: 0 only if nothing failed.
set -u
cd "$(dirname "$0")/.."
packages=(smbclient samba samba-testsuite qemu-utils libvmdk-utils nbdkit libnbd-bin python3 golang-go golang-github-vmware-govmomi-dev
  python3-venv qemu-system-x86 busybox-static cpio rsync rclone iproute2 iptables)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ] && [ "$(id -u)" = 0 ]; then
  install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
  apt-get update -qq
  # One that is not to be had must not keep the others away.
  install "${missing[@]}" || for package in "${missing[@]}"; do install "$package" || echo "not installed: $package"; done
fi

passed=0 failed=0 skipped=0 skipped_names=''
# step NAME COMMAND…: exit status 77 means skipped, and the command has said why.
step() {
  local name=$1 begun=$SECONDS status=0
  shift
  printf '\n=== %s\n' "$name"
  "$@" || status=$?
  case $status in
    0) passed=$((passed + 1)) word=ok ;;
    77) skipped=$((skipped + 1)) word=SKIPPED skipped_names="$skipped_names $name" ;;
    *) failed=$((failed + 1)) word="FAILED ($status)" ;;
  esac
  printf '=== %s: %s, %d s\n' "$name" "$word" $((SECONDS - begun))
}
step format cargo fmt --all --check
step lints cargo clippy --workspace --all-targets --all-features -- -D warnings
step 'fuzz targets' cargo check --quiet --manifest-path fuzz/Cargo.toml --target-dir target/fuzz-check
step tests cargo test --workspace --all-features --quiet
step build cargo build --release --bins --examples
for script in interop/check_*.py; do
  step "$(basename "$script" .py)" python3 "$script"
done
[ -z "$skipped_names" ] || printf '\nskipped:%s\n' "$skipped_names"
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ]
