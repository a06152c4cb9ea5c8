# shellcheck shell=bash
# Sourced by the scripts beside it. Gives `project_root`, and `ensure_environment [EXTRA...]`: the
# project in .venv beside it, made on the first call. A later call only compares stamps, without
# starting a program. A stamp holds the very text that it was made from, is written last and by
# rename, so an interrupted installation has none and is done again.

project_root=$(cd -- "${BASH_SOURCE[0]%/*}/.." >/dev/null && pwd -P)
venv=$project_root/.venv
stamps=$venv/harness-stamps # its presence also says that the environment is ours to remake

ensure_environment() {
  environment_is_current "$@" && return
  local found
  # Listed before the stamps are looked for: another call may be making both at this moment, and
  # makes the stamps first.
  found=$(ls -A "$venv" 2>/dev/null || true)
  if [[ -n $found && ! -e $stamps ]]; then
    echo "$venv exists but was not made by these scripts: move it away, and call this again" >&2
    exit 1
  fi
  mkdir -p "$stamps"
  # A subshell holds the lock, so that what is started afterwards does not. It stands alone, for in a
  # condition or before || bash would ignore `set -e` inside.
  (
    set -euo pipefail
    trap '[[ $? == 0 ]] || exit 1' EXIT # pip's 2 would read as "wrong input"
    lock_installation
    environment_is_current "$@" || install_environment "$@" </dev/null
  ) 9>"$stamps/.lock" >&2
}

# What an installation depends on. The traces of an NVIDIA driver cost a few file tests;
# nvidia-smi, which can take seconds to answer, is asked only when installing.
environment_key() {
  local driver=none
  if command -v nvidia-smi >/dev/null && [[ -e /dev/nvidiactl || -e /dev/dxg ]]; then
    driver=nvidia
  fi
  printf -v key '%s\n' "root: $project_root" "driver: $driver" \
    "$(<"$venv/pyvenv.cfg")" "$(<"$project_root/pyproject.toml")"
}

environment_is_current() {
  local key extra
  [[ -x $venv/bin/python && -r $venv/pyvenv.cfg ]] || return 1
  environment_key
  for extra in base "$@"; do
    [[ -r $stamps/$extra && $(<"$stamps/$extra") == "${key%$'\n'}" ]] || return 1
  done
}

lock_installation() {
  if ! command -v flock >/dev/null; then
    echo "flock is not installed: do not start a second installation before this one ends"
  elif ! flock --nonblock 9; then
    echo "waiting for another installation into $venv ..."
    flock 9
  fi
}

install_environment() {
  local key extra
  echo "installing $project_root${*:+ with the needs of: $*} into .venv (once) ..."
  make_venv
  environment_key
  if ! environment_is_current; then
    pip_install --editable "$project_root"
    if cuda_wanted; then install_extra cuda; fi
    write_stamp base
  fi
  for extra in "$@"; do
    if ! environment_is_current "$extra"; then
      install_extra "$extra"
      write_stamp "$extra"
    fi
  done
}

cuda_wanted() {
  command -v nvidia-smi >/dev/null || return 1
  nvidia-smi >/dev/null 2>&1 && return 0
  echo "nvidia-smi is installed but does not answer: installing TensorFlow without CUDA"
  return 1
}

pip_install() {
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

# The requirements alone: to install the project a second time would take its files away for a
# moment from a run that is just starting.
install_extra() {
  local requirements
  requirements=$("$venv/bin/python" - "$project_root/pyproject.toml" "$1" <<'PYTHON'
import sys, tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
print("\n".join(project["dependencies"] + project["optional-dependencies"][sys.argv[2]]))
PYTHON
  )
  pip_install --requirement <(printf '%s\n' "$requirements")
}

write_stamp() {
  printf '%s' "$key" >"$stamps/.$1.new"
  mv -f "$stamps/.$1.new" "$stamps/$1"
}

# Makes .venv, unless it was completed at this very place and its Python still runs.
make_venv() {
  if [[ -r $stamps/venv && $(<"$stamps/venv") == "$project_root" ]] &&
    "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    return
  fi
  local python
  python=$(find_python)
  find "$venv/" -mindepth 1 -maxdepth 1 ! -name "${stamps##*/}" -exec rm -rf {} +
  rm -f "$stamps"/*
  "$python" -m venv "$venv"
  printf '%s' "$project_root" >"$stamps/.venv.new"
  mv -f "$stamps/.venv.new" "$stamps/venv"
}

# Prints the first Python that can make the environment: new enough, not newer than TensorFlow has
# packages for (`requires-python`), and with the modules that Debian splits off. The name is the
# resolved one (python3.13, not python3), so that a system upgrade breaks the link instead of
# putting another version behind it.
find_python() {
  local candidate resolved without_venv=""
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    resolved=$("$candidate" -c '
import os, sys
if (3, 11) <= sys.version_info < (3, 14):
    print(os.path.realpath(sys.executable))' 2>/dev/null) || continue
    [[ -n $resolved ]] || continue
    if "$resolved" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$resolved"
      return
    fi
    without_venv=$resolved
  done
  if [[ -n $without_venv ]]; then
    echo "$without_venv lacks the venv module: install it (Debian, Ubuntu: apt-get install" \
      "python3-venv), and call this again" >&2
  else
    echo "no Python 3.11, 3.12 or 3.13 on the PATH (looked for python3, python3.13, python3.12," \
      "python3.11, python): install one, and call this again" >&2
  fi
  return 1
}
