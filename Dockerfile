# A robot with an NVIDIA GPU: ROS 2 Jazzy, torch with CUDA, this package.
#   docker build -t lmeec . && docker run --rm --gpus all --network host lmeec
# Nobody has built this file yet: it was written on a machine without Docker.
FROM ros:jazzy
SHELL ["/bin/bash", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends \
      python3-venv python3-pip ros-jazzy-rmw-fastrtps-cpp \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/lmeec
COPY package.xml .
RUN apt-get update && rosdep update \
    && source /opt/ros/jazzy/setup.bash && rosdep install --from-paths . -yi \
    && rm -rf /var/lib/apt/lists/*
COPY . .
# torch from the package index is the build with CUDA; the driver comes from the host.
RUN source /opt/ros/jazzy/setup.bash && make build
ENTRYPOINT ["/bin/bash", "-c", "source /opt/ros/jazzy/setup.bash && source .ci/env.sh && exec \"$@\"", "--"]
CMD ["ros2", "launch", "lmeec", "lmeec.launch.py"]
