#!/usr/bin/env bash
# Installs Open MPI and MPICH on Debian or Ubuntu, as root or through sudo; does nothing where both are there.
set -euo pipefail

fail() { printf 'install_mpi.sh: %s\n' "$*" >&2; exit 1; }

command -v mpirun.openmpi >/dev/null && command -v mpirun.mpich >/dev/null && exit 0
command -v apt-get >/dev/null || fail 'there is no apt-get; install Open MPI and MPICH by other means'
root=()
if [[ $(id -u) != 0 ]]; then
  command -v sudo >/dev/null || fail 'neither root nor sudo: install openmpi-bin and mpich beforehand'
  root=(sudo)
fi
install() {
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends openmpi-bin mpich
}
# The lists of packages may be absent or old.
install || { "${root[@]}" apt-get update -q && install; }
