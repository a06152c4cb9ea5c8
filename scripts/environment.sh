# shellcheck shell=bash
# Sourced by the scripts in this folder. Defines `project_root`, and `ensure_environment [EXTRA...]`,
# which installs the project, the packages locked in requirements/base.txt and those of each
# requirements/EXTRA.txt into .venv. Once they are there, a call compares stamps and starts no
# program. A stamp holds the text that its installation depends on, and is written last: an
# interrupted installation is repeated.

project_root=$(cd -- "${BASH_SOURCE[0]%/*}/.." >/dev/null && pwd -P)
venv=$project_root/.venv
stamps=$venv/harness-stamps # marks .venv as made by these scripts

ensure_environment() {
  # Only a success is recorded: until CUDA is installed, every call asks nvidia-smi again.
  if command -v nvidia-smi >/dev/null && { is_current cuda || nvidia-smi &>/dev/null; }; then
    set -- "$@" cuda
  fi
  is_current base "$@" && return
  # Listed first: a concurrent first call makes the stamps before anything else.
  if [[ -n $(ls -A "$venv" 2>/dev/null) && ! -e $stamps ]]; then
    echo "$venv exists but was not made by these scripts: move it away and try again" >&2
    exit 1
  fi
  if [[ -L $venv && -r $stamps/venv && $(<"$stamps/venv") != "$project_root" ]]; then
    echo "$venv is a link to the environment of $(<"$stamps/venv"): remove the link, try again" >&2
    exit 1
  fi
  mkdir -p "$stamps"
  # A subshell frees the lock at its end. It is no part of a condition: there bash ignores `set -e`.
  (
    set -euo pipefail
    trap '[[ $? == 0 ]] || exit 1' EXIT # pip's exit code 2 would mean wrong input
    flock --nonblock 9 || { echo "waiting for another installation into $venv ..." && flock 9; }
    is_current base "$@" || install_environment "$@" </dev/null
  ) 9>"$stamps/.lock" >&2
}

is_current() {
  local name
  [[ -x $venv/bin/python && -r $venv/pyvenv.cfg ]] || return 1
  for name in "$@"; do
    [[ -r $stamps/$name && $(<"$stamps/$name") == "$(stamp_text "$name")" ]] || return 1
  done
}

stamp_text() {
  printf '%s\n' "$project_root" "$(<"$venv/pyvenv.cfg")" "$(<"$project_root/pyproject.toml")" \
    "$(<"$project_root/requirements/$1.txt")"
}

install_environment() {
  local name python size=
  local pip=("$venv/bin/python" -m pip install --disable-pip-version-check --no-deps --progress-bar off)
  pip+=(--no-compile) # to pip it is half of the work, on one core
  is_current base || size=", 2.4 GB, some minutes"
  echo "installing $project_root${*:+ with the packages for: $*} into .venv (once$size) ..."
  if command -v nvidia-smi >/dev/null && [[ " $* " != *" cuda "* ]]; then
    echo "nvidia-smi is installed but does not answer: CUDA will be installed once it does"
  fi
  if [[ ! -r $stamps/venv || $(<"$stamps/venv") != "$project_root" ]] ||
    ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    python=$(find_python)
    rm -f "$stamps"/*
    find "$venv/" -mindepth 1 -maxdepth 1 ! -path "$stamps" -exec rm -rf {} +
    "$python" -m venv "$venv"
    printf '%s' "$project_root" >"$stamps/venv"
  fi
  for name in base "$@"; do
    is_current "$name" && continue
    "${pip[@]}" --require-hashes --requirement "$project_root/requirements/$name.txt" |
      show_progress "$name" "$(grep -c '^[^ #].*==' "$project_root/requirements/$name.txt")"
    [[ $name != base ]] || "${pip[@]}" --quiet --no-build-isolation --editable "$project_root"
    stamp_text "$name" >"$stamps/$name"
  done
  "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" &>/dev/null || : # some are for other versions
  echo "installed after $SECONDS s; .venv takes $(du -sh "$venv" | cut -f1)"
}

# Shows what pip does, from its output: `base: 12 of 44: tensorflow==2.21.0 (620.7 MB)`. A terminal
# shows every package in one line, a log those of some size.
show_progress() {
  local line words package="" number=0
  while IFS= read -r line; do
    case $line in
      Collecting*)
        number=$((number + 1))
        read -r _ package _ <<<"$line"
        line="$1: $number of $2: $package"
        [[ -t 1 ]] || continue
        ;;
      *Downloading*MB\) | *"Using cached"*MB\)) line="$1: $number of $2: $package (${line##*\(}" ;;
      Installing*)
        read -ra words <<<"$line" # Installing collected packages: NAME, NAME
        line="$1: unpacking $((${#words[@]} - 3)) packages"
        ;;
      *) continue ;;
    esac
    if [[ -t 1 ]]; then printf '\r\033[K%s' "$line"; else echo "$line"; fi
  done
  [[ ! -t 1 ]] || printf '\r\033[K'
}

find_python() {
  local names=(python3 python3.13 python3.12 python3.11 python) name
  for name in "${names[@]}"; do # prints the real path, which a system upgrade breaks, not replaces
    "$name" -c 'import ensurepip, os, sys, venv; assert (3, 11) <= sys.version_info < (3, 14)
print(os.path.realpath(sys.executable))' 2>/dev/null && return
  done
  echo "no Python 3.11, 3.12 or 3.13 with the venv module (tried: ${names[*]}): install one" \
    "(Debian, Ubuntu: apt-get install python3-venv) and try again" >&2
  return 1
}
