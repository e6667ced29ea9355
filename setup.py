"""Install the core and the tools without ROS: `pip install .`, `pip install .[video,bags]`.

The commands and parts that need ROS are in it, too; they say so where there is none.

The ROS package is built by colcon from CMakeLists.txt and package.xml; colcon ignores this file.
Exact versions that are tested together: .ci/requirements*.txt.
"""

INSTALL_REQUIRES = [
    "numpy>=1.26",
    "torch>=2.6",
    "opencv-python-headless>=4.6",
    "pillow>=10",
    "platformdirs>=4",
    "pydantic>=2.6",
    "PyYAML>=6.0",
    "typer>=0.12",
    "rich>=13",
    "safetensors>=0.4.3",
    "pycocotools>=2.0.7",
    "scipy>=1.11",
    "simplejpeg>=1.8",  # notices damage that OpenCV decodes without a word
    "Jinja2>=3.1",  # also a requirement of torch
]

EXTRAS_REQUIRE = {
    "bags": ["rosbags>=0.11.9,<0.12"],  # rosbag2 files; see lmeec_core/bags/unpacking.py
    "video": ["av>=13"],  # MP4
    "dataset": ["av>=13", "h5py>=3.11", "pyarrow>=17"],  # lmeec dataset
    "download": ["pooch>=1.8"],  # lmeec weights; brings requests
    "simulation": ["mujoco==3.17.0"],  # plain `mujoco` may resolve to 4.x, a meta package
    "training": ["tensorboard>=2.16"],
    "evaluation": ["matplotlib>=3.8", "scikit-learn>=1.4"],
    # lmeec export, and the engines; versions before these are not tested
    "onnx": ["onnx>=1.23", "onnxscript>=0.7", "onnxruntime>=1.31"],
    "openvino": ["openvino>=2026.4", "onnx>=1.23", "onnxscript>=0.7", "onnxruntime>=1.31"],
    # lmeec export --tensorrt, and the engine: TensorRT for RTX. NVIDIA's own licence: not in "all".
    "tensorrt": ["tensorrt-rtx-cu12-libs==1.7.1.116", "tensorrt-rtx-cu12-bindings==1.7.1.116"],
    "ray": ["ray>=2.40"],  # lmeec track, dataset --cluster; a cluster's version has to be ours
    "transformers": ["transformers>=5.20,<6"],  # the published features of the method omama
    "rerun": ["rerun-sdk==0.41.0"],  # lmeec view --rerun; its interface changes between versions
    "mark": ["nicegui==3.18.0"],  # lmeec mark; brings fastapi and uvicorn
    "dev": [
        "hypothesis>=6.100",
        "import-linter>=2.6",
        "lzstring>=1.0.4",  # what our own decoder is tested against
        "mypy>=1.15",
        "pdoc>=15",
        "psutil>=5.9",
        "pytest>=8.2",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.15",
        "selenium>=4.30",  # the page of lmeec mark in a real browser
        "setuptools>=70.1",  # makes wheels itself
        "types-PyYAML>=6.0",
        "webdataset>=1.0",
    ],
}
EXTRAS_REQUIRE["all"] = sorted(
    {line for name, lines in EXTRAS_REQUIRE.items() if name != "tensorrt" for line in lines}
)

if __name__ == "__main__":  # .ci/missing.py reads the lists above
    import re
    from glob import glob
    from pathlib import Path

    from setuptools import find_packages, setup

    setup(
        name="lmeec",
        version=re.findall("<version>(.+)</version>", Path("package.xml").read_text())[0],
        description="Finds an object seen by one camera in the views of other cameras (LM-EEC)",
        license="Apache-2.0",
        python_requires=">=3.11,<3.14",
        packages=find_packages(include=["lmeec_core", "lmeec_core.*", "lmeec_ros", "lmeec_ros.*"]),
        package_data={"": ["weights/*", "configs/*", "*.html", "py.typed"]},
        # The messages' definitions, without which no bag of masks can be read or written.
        data_files=[("share/lmeec/msg", sorted(glob("msg/*.msg")))],
        install_requires=INSTALL_REQUIRES,
        extras_require=EXTRAS_REQUIRE,
        entry_points={
            "console_scripts": ["lmeec = lmeec_core.cli.entry:main"],
            "lmeec.plugins": ["ros = lmeec_ros.plugin"],  # for colcon: lmeec_ros/setup.cfg
        },
    )
