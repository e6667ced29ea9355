"""Install the core and the tools without ROS: `pip install -e .`, `pip install -e .[video,bags]`.

The ROS package is built by colcon from CMakeLists.txt and package.xml; colcon ignores this file.
Exact versions that are tested together: .ci/requirements*.txt.
"""

INSTALL_REQUIRES = [
    "numpy>=1.26",
    "torch>=2.6",
    "opencv-python-headless>=4.6",
    "pillow>=10",
    "pydantic>=2.6",
    "PyYAML>=6.0",
    "typer>=0.12",
    "rich>=13",
    "safetensors>=0.4.3",
    "pycocotools>=2.0.7",
]

EXTRAS_REQUIRE = {
    "bags": ["rosbags>=0.10"],  # rosbag2 files without ROS
    "video": ["av>=13"],  # MP4
    "simulation": ["mujoco==3.17.0"],  # plain `mujoco` may resolve to 4.x, a meta package
    "training": ["tensorboard>=2.16"],
    "evaluation": ["matplotlib>=3.8", "scikit-learn>=1.4", "scipy>=1.11"],
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20"],
    "openvino": ["openvino>=2025.0"],
    "ray": ["ray>=2.40"],
    "dev": [
        "hypothesis>=6.100",
        "mypy>=1.15",
        "psutil>=5.9",
        "pytest>=8.2",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.15",
        "types-PyYAML>=6.0",
    ],
}
EXTRAS_REQUIRE["all"] = sorted({line for lines in EXTRAS_REQUIRE.values() for line in lines})

if __name__ == "__main__":  # .ci/missing.py reads the lists above
    from setuptools import find_packages, setup

    setup(
        name="lmeec",
        version="0.1.0",
        description="Finds an object seen by one camera in the views of other cameras (LM-EEC)",
        license="Apache-2.0",
        python_requires=">=3.11,<3.14",
        packages=find_packages(include=["lmeec_core", "lmeec_core.*"]),
        package_data={"": ["weights/*", "configs/*", "py.typed"]},
        install_requires=INSTALL_REQUIRES,
        extras_require=EXTRAS_REQUIRE,
        entry_points={"console_scripts": ["lmeec = lmeec_core.cli:main"]},
    )
