# The steps of setup.sh. It sets: root, level, venv, log.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# step LABEL COMMAND...: run a command into the log; its latest line every 20 s, its end on failure.
step() {
  local label=$1 start=$SECONDS status=0 command_pid next=20
  shift
  say "-- $label"
  printf '\n== %s: %s\n' "$label" "$*" >>"$log"
  local from
  from=$(wc -l <"$log")
  # A process group of its own, so that Ctrl-C or a kill takes pip's or colcon's children along. It
  # inherits the folder's lock: should this shell be killed outright, the next set-up waits for it.
  set -m
  "$@" >>"$log" 2>&1 </dev/null &
  command_pid=$!
  set +m
  trap 'kill -- "-$command_pid" 2>/dev/null; fail "Interrupted; run it again to go on from here."' INT TERM HUP
  while kill -0 "$command_pid" 2>/dev/null; do
    sleep 0.2
    if [ $((SECONDS - start)) -ge "$next" ]; then
      next=$((next + 20))
      say "   $((SECONDS - start)) s: $(tail -n 30 "$log" | grep -v '^WARNING' | tail -n 1 | cut -c 1-90)"
    fi
  done
  wait "$command_pid" || status=$?
  trap - INT TERM HUP
  if [ "$status" -ne 0 ]; then
    tail -n "+$from" "$log" | grep -v "^WARNING: Location" | tail -n 60 >&2
    fail "Failed: $label (exit status $status). All output: $log"
  fi
  say "   done in $((SECONDS - start)) s"
}

# One set-up at a time; a second one waits.
lock_folder() {
  command -v flock >/dev/null || return 0
  exec 9>build/.setup.lock
  if ! flock -n 9; then
    say "-- Another set-up is running in this folder; waiting for it"
    flock 9
  fi
}

ros_is_sourced() { [ "${ROS_DISTRO:-}" = jazzy ] && [ -n "${AMENT_PREFIX_PATH:-}" ] && [ "$(ament_ros)" ]; }

# The sourced ROS installation; empty if AMENT_PREFIX_PATH holds only this folder's own wheels.
ament_ros() { printf '%s' "$AMENT_PREFIX_PATH" | tr ':' '\n' | grep -v "^$root/" || true; }

# ---- stamps: a step is done if its stamp file holds the hash of all that the step depends on

hash_of() { sha256sum | cut -c 1-32; }
done_before() { [ "$(cat "$venv/.stamps/$1" 2>/dev/null)" = "$2" ]; }
set_done() { mkdir -p "$venv/.stamps"; printf '%s' "$2" >"$venv/.stamps/$1"; }
stamp_of() { cat ".ci/requirements-$1.txt" .ci/constraints.txt 2>/dev/null | hash_of; }

# ---- what only the system can give

python_fits() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# The interpreter for .venv: $PYTHON, or ROS's, or the first of the supported ones.
find_python() {
  local name
  if [ -n "${PYTHON:-}" ]; then
    python_fits "$PYTHON" && command -v "$PYTHON"
    return
  fi
  if ros_is_sourced; then
    python_fits python3 && command -v python3
    return
  fi
  for name in python3.11 python3.12 python3.13 python3; do
    if python_fits "$name"; then
      command -v "$name"
      return
    fi
  done
  return 1
}

# Fills `missing` with the Debian packages for what is not there.
find_missing() {
  local python version
  missing=()
  command -v g++ >/dev/null || command -v "${CXX:-c++}" >/dev/null || missing+=(g++)
  command -v make >/dev/null || missing+=(make)
  if python=$(find_python); then
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("$version-venv")
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
      missing+=("$version-dev")
  else
    missing+=(python3 python3-venv python3-dev)
  fi
  if [ "$level" = dev ] && [ "${MUJOCO_GL:-osmesa}" = osmesa ]; then
    # ldconfig is not on every user's PATH.
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -q 'libOSMesa\.so' || missing+=(libosmesa6)
  fi
}

check_system() {
  local missing
  if [ -n "${PYTHON:-}" ] && ! python_fits "$PYTHON"; then
    fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13: name one that is, or leave PYTHON out."
  fi
  find_missing
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    fail "Missing on this system: ${missing[*]}. Install with: sudo apt-get install ${missing[*]}"
  fi
  step "System packages: ${missing[*]}" install_system "${missing[@]}"
  find_missing
  [ ${#missing[@]} -eq 0 ] ||
    fail "Still missing after apt-get: ${missing[*]} (Python 3.11, 3.12 or 3.13 is needed; PYTHON=<path> names one)."
}

install_system() {
  apt-get update -q || true # a broken third-party source need not matter
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# ---- the virtual environment

# Whether .venv was made to its end, in this folder (not copied from another one), and still runs.
venv_is_whole() {
  [ ! -e "$venv/.incomplete" ] &&
    [ "$(cat "$venv/.stamps/folder" 2>/dev/null || printf '%s' "$root")" = "$root" ] &&
    python_fits "$venv/bin/python" && "$venv/bin/python" -c 'import pip' 2>/dev/null
}

make_venv() {
  local python options=()
  if venv_is_whole; then
    if [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -V)" = "$("$venv/bin/python" -V)" ]; then return; fi
    say "-- .venv has $("$venv/bin/python" -V), asked for is $("$PYTHON" -V): making it anew"
  elif [ -e "$venv" ]; then
    say "-- .venv is not whole (an interrupted set-up, or another folder's): making it anew"
  fi
  rm -rf "$venv"
  mkdir "$venv"
  touch "$venv/.incomplete" "$venv/COLCON_IGNORE"
  python=$(find_python)
  if ros_is_sourced; then options=(--system-site-packages); fi
  step "Virtual environment .venv ($("$python" -V))" "$python" -m venv ${options[@]+"${options[@]}"} "$venv"
  set_done folder "$root"
  rm "$venv/.incomplete"
}

# ---- packages

# install_pinned NAME PIP-ARGUMENTS...: the packages of .ci/requirements-NAME.txt, once.
install_pinned() {
  local name=$1 again=()
  shift
  if done_before "$name" "$(stamp_of "$name")"; then return; fi
  # pip, when killed, leaves half-written packages that it takes for whole ones the next time.
  if [ -e "$venv/.stamps/$name.begun" ]; then again=(--ignore-installed); fi
  mkdir -p "$venv/.stamps"
  touch "$venv/.stamps/$name.begun"
  step "Python packages: $name" "$venv/bin/python" -m pip install --disable-pip-version-check \
    --progress-bar off ${again[@]+"${again[@]}"} -c .ci/constraints.txt "$@"
  set_done "$name" "$(stamp_of "$name")"
  rm "$venv/.stamps/$name.begun"
}

# With a ROS installation: only what cannot be imported, at any version that setup.py allows.
install_missing() {
  local wanted stamp
  stamp=$(cat setup.py .ci/missing.py .ci/requirements*.txt | hash_of)
  if done_before "missing-$1" "$stamp"; then return; fi
  "$venv/bin/python" .ci/missing.py "$1" >build/missing.txt
  wanted=$(grep -cv '^numpy==' build/missing.txt || true)
  if [ "$wanted" -gt 0 ]; then
    step "Python packages that ROS does not have ($wanted)" "$venv/bin/python" -m pip install \
      --disable-pip-version-check --progress-bar off \
      ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r build/missing.txt
  fi
  set_done "missing-$1" "$stamp"
}

# ---- the ROS package

# Symbolic links (--symlink-install) keep the installed Python files current by themselves; colcon
# has to run when a file comes or goes or a script changes (CMake fills in its interpreter), and from
# scratch when what it compiles changes.
build_package() {
  local compiled files dangling
  compiled=$({ cat CMakeLists.txt package.xml msg/*.msg; ls msg; "$venv/bin/python" -V
    if ros_is_sourced; then ament_ros; fi
    printf '%s' "$root"; } | hash_of)
  files=$({ printf '%s' "$compiled"; with_tests; cat lmeec_ros/scripts/*; find lmeec_core lmeec_ros launch config \
    test/data/sample_take -type f -not -path '*/__pycache__/*' -not -name '.*' | LC_ALL=C sort; } | hash_of)
  if [ "$(cat install/.compiled 2>/dev/null)" != "$compiled" ]; then
    rm -rf build/lmeec install
  elif [ "$(cat install/.files 2>/dev/null)" = "$files" ]; then
    return
  fi
  rm -f install/.compiled install/.files
  step "colcon build" run_colcon
  dangling=$(find install/lmeec -xtype l -print -delete)
  if [ -n "$dangling" ]; then # files that are gone; their folders must not stay importable
    find install/lmeec -name __pycache__ -prune -exec rm -rf {} +
    find install/lmeec -type d -empty -delete
  fi
  printf '%s' "$compiled" >install/.compiled
  printf '%s' "$files" >install/.files
}

# Whether `colcon test` can run here: ON or OFF, as CMake's BUILD_TESTING takes it.
with_tests() { if "$venv/bin/python" -c 'import pytest' 2>/dev/null; then printf ON; else printf OFF; fi; }

run_colcon() {
  # shellcheck disable=SC1091
  set +u && . "$venv/bin/activate" && set -u
  if ! ros_is_sourced; then
    export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
    unset PYTHONPATH
  fi
  colcon build --base-paths "$root" --symlink-install --event-handlers console_direct+ \
    --cmake-args "-DBUILD_TESTING=$(with_tests)"
}
