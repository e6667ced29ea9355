# Source this in bash to use what setup.sh made: `source .ci/env.sh`, then `lmeec --help`.
# shellcheck shell=bash disable=SC1091
lmeec_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$lmeec_root/.venv/bin/activate"
if [ -d "$lmeec_root/.venv/share/rclpy" ]; then # ROS is the wheels in .venv, not an installation
  export AMENT_PREFIX_PATH=$lmeec_root/.venv CMAKE_PREFIX_PATH=$lmeec_root/.venv
  unset PYTHONPATH # may hold another ROS distribution
fi
. "$lmeec_root/install/setup.bash"
PATH=$lmeec_root/install/lmeec/lib/lmeec:$PATH
# Raw images do not fit Fast DDS's default shared memory (config/fastdds.xml). Fast DDS 2.14, which
# Jazzy has, reads the first name, later ones the second.
: "${FASTRTPS_DEFAULT_PROFILES_FILE:=$lmeec_root/install/lmeec/share/lmeec/config/fastdds.xml}"
: "${FASTDDS_DEFAULT_PROFILES_FILE:=$FASTRTPS_DEFAULT_PROFILES_FILE}"
export PATH FASTRTPS_DEFAULT_PROFILES_FILE FASTDDS_DEFAULT_PROFILES_FILE
unset lmeec_root
