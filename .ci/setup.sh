#!/usr/bin/env bash
# Set up all that the project needs, in this folder; safe to run again, also after it was killed.
#
#   .ci/setup.sh run    what the node, the tools and the demo need
#   .ci/setup.sh dev    that, and what the checks and tests need
#
# PYTHON=<interpreter> chooses the Python; TORCH_INDEX=<url> takes torch from another package index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
level=${1:-run}
venv=$root/.venv
log=$root/build/setup.log
# shellcheck source=functions.sh
. .ci/functions.sh

mkdir -p build
touch build/COLCON_IGNORE
lock_folder
: >"$log"

check_system
make_venv
if ros_is_sourced; then
  install_missing "$level"
else
  install_pinned ros -r .ci/requirements-ros.txt
  install_pinned torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r .ci/requirements-torch.txt
  install_pinned run -r .ci/requirements.txt
  if [ "$level" = dev ]; then install_pinned dev -r .ci/requirements-dev.txt; fi
  if ! done_before repair "$(stamp_of ros)"; then
    step "Repair of the ROS wheels' CMake files" "$venv/bin/python" .ci/wheel_repair.py
    set_done repair "$(stamp_of ros)"
  fi
fi
build_package
