# Sourced by the scripts beside it: where things are, and how to become root.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }

# Everything that is built or downloaded goes here, outside the repository.
if [ -z "${KEEPLINE_CACHE:-}" ]; then
    KEEPLINE_CACHE="${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/keepline"
    # HOME may name a place that cannot be written (containers, CI).
    mkdir -p "$KEEPLINE_CACHE" 2>/dev/null || KEEPLINE_CACHE="/var/tmp/keepline-$(id -u)"
fi
mkdir -p "$KEEPLINE_CACHE"
export KEEPLINE_CACHE
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$KEEPLINE_CACHE/target}"

# Rust, where it is usually installed, also when HOME is not its owner's.
if ! command -v cargo >/dev/null; then
    for bin in "${HOME:-/root}/.cargo/bin" /root/.cargo/bin /usr/local/cargo/bin; do
        [ -x "$bin/cargo" ] && PATH="$bin:$PATH" && break
    done
fi
cargo_path=$(command -v cargo || true)
rust_home=${cargo_path%/.cargo/bin/cargo}
if [ "$rust_home" != "$cargo_path" ] && [ "$rust_home" != "${HOME:-}" ] && [ -d "$rust_home/.rustup" ]; then
    export RUSTUP_HOME="${RUSTUP_HOME:-$rust_home/.rustup}" CARGO_HOME="${CARGO_HOME:-$rust_home/.cargo}"
fi
PATH="$KEEPLINE_CACHE/tools/bin:$PATH"
export PATH

# The command prefix that makes one root; empty for root.
SUDO=()
if [ "$(id -u)" != 0 ]; then SUDO=(sudo); fi

# What the release is built for: one static file for this machine's kind.
triple() { rustc -vV | sed -n 's/^host: //p'; }
# Name of a per-target cargo setting, as an environment variable: cargo_target RUSTFLAGS
cargo_target() { echo "CARGO_TARGET_$(triple | tr 'a-z-' 'A-Z_')_$1"; }
KEEPLINE_STATIC="$KEEPLINE_CACHE/bin/keepline"
