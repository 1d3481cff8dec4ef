#!/usr/bin/env bash
# Holds Cargo.lock against RustSec's database of advisories, by cargo-deny.
#
#   scripts/check_advisories.sh
#
# The database is a git repository. It comes from $ADVISORY_DB, a clone of it or an address that git can clone, else
# from GitHub. If it cannot be reached, nothing is checked and the script says so; with ADVISORIES=required that is an
# error.
set -euo pipefail
cd "$(dirname "$0")/.."

home=https://github.com/RustSec/advisory-db
database=${ADVISORY_DB:-$home}
# A bare repository or a clone may belong to another user.
export GIT_TERMINAL_PROMPT=0 GIT_CONFIG_COUNT=2 \
  GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' \
  GIT_CONFIG_KEY_1=url.$database.insteadOf GIT_CONFIG_VALUE_1=$home

if ! timeout 30 git ls-remote --quiet --exit-code "$home" HEAD >/dev/null 2>&1; then
  echo "advisories: not checked, because $database cannot be reached; set ADVISORY_DB to a clone of $home"
  [[ ${ADVISORIES:-} != required ]]
  exit
fi
cargo deny check advisories
