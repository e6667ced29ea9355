# `make help` lists what there is. Every target sets up what it needs first; .ci/setup.sh does the work.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-lerobot lint format docs pictures build clean distclean

export PYTHON TORCH_INDEX

OUT ?= out/demo
PYTEST_ARGS ?=
WORKERS ?= 3

# A DDS domain of its own, on this host only: no other robot hears it. `set +u` for colcon's scripts.
# The demo keeps a ROS_DOMAIN_ID that is set, so that it can be watched from another terminal.
OWN_DOMAIN = $$((1 + $$$$ % 100))
ENTER = set +u; source .ci/env.sh; set -u; \
	export ROS_DOMAIN_ID=$${ROS_DOMAIN_ID:-$(OWN_DOMAIN)} \
		ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST; unset ROS_LOCALHOST_ONLY
# `python -m`: with a ROS installation the plain commands may be the system's, which do not see .venv.
# -P: the tests import the installed package, not the sources in this folder.
PYTEST = export ROS_DOMAIN_ID=$(OWN_DOMAIN) MUJOCO_GL=$${MUJOCO_GL:-osmesa}; mkdir -p build; \
	python -P -m pytest --junit-xml=build/test-results.xml

help:
	@echo "make demo       the node as a process, a recorded take played to it over DDS; results in $(OUT)/"
	@echo "                  TAKE=<folder>  CHECKPOINT=<file>  PRESET=<name>  RATE=<factor>  OUT=<folder>"
	@echo "make test       format, lint and type checks, then all tests that are not slow"
	@echo "                  PYTEST_ARGS='-k pairing -x' passes options on to pytest"
	@echo "                  WORKERS=<number> of processes that share the tests; 3 if not given"
	@echo "make test-slow  the slow tests, and the fuzz tests with many more inputs"
	@echo "make test-lerobot  a dataset is loaded by LeRobot, which trains one step on it (installs it first)"
	@echo "make lint       format, lint and type checks alone;  make format  repairs format and imports"
	@echo "make docs       the Python interface of lmeec_core as HTML; results in out/docs/"
	@echo "make pictures   a picture of every topic of the node, in docs/images/"
	@echo "make build      set-up and colcon build; afterwards: source .ci/env.sh && lmeec --help"
	@echo "make clean      removes build/ install/ log/ out/;  make distclean  .venv too"
	@echo
	@echo "Any target: PYTHON=<python3.11 to 3.13>  TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	@echo "The first run sets up .venv (some minutes, mostly torch), later ones reuse it."

build:
	@.ci/setup.sh run

demo:
	@.ci/setup.sh run
	@$(ENTER); lmeec demo --out "$(OUT)" $(if $(TAKE),--take "$(TAKE)") \
		$(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") $(if $(PRESET),--preset "$(PRESET)") \
		$(if $(RATE),--rate "$(RATE)")

lint:
	@.ci/setup.sh dev
	@$(ENTER); echo "-- ruff format --check"; python -m ruff format --check .
	@$(ENTER); echo "-- ruff check"; python -m ruff check .
	@$(ENTER); echo "-- mypy"; python -m mypy
	@$(ENTER); echo "-- import contracts"; lint-imports --no-logo --cache-dir build/import_linter
	@$(ENTER); echo "-- documentation: links, table of parameters"; python .ci/docs.py

# The names that lmeec_core exports, and the modules that people use besides.
docs:
	@.ci/setup.sh dev
	@$(ENTER); python -m pdoc -o out/docs -d google lmeec_core lmeec_core.takes lmeec_core.evaluation lmeec_core.overlay; echo "out/docs/index.html"

# Of every topic of the node, from a real run.
pictures:
	@.ci/setup.sh dev
	@$(ENTER); export MUJOCO_GL=$${MUJOCO_GL:-osmesa}; python .ci/pictures.py

format:
	@.ci/setup.sh dev
	@$(ENTER); python -m ruff format .; python -m ruff check --fix .

# One worker more than two cores, because tests also wait; what belongs to one file stays in one worker.
# The longest files come first (test/conftest.py); xdist would begin with those that have the most tests.
test: lint
	@$(ENTER); $(PYTEST) test -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow" $(PYTEST_ARGS)

test-slow:
	@.ci/setup.sh dev
	@$(ENTER); $(PYTEST) -m "slow or fuzz" --hypothesis-profile=thorough $(PYTEST_ARGS)

# LeRobot needs older versions of torch, OpenCV and PyAV than .venv has.
LEROBOT = build/lerobot
test-lerobot:
	@.ci/setup.sh dev
	@$(ENTER); if [ ! -f $(LEROBOT)/done ]; then echo "-- LeRobot into $(LEROBOT) (some GB)"; \
		python -m venv --clear $(LEROBOT); \
		env -u PYTHONPATH $(LEROBOT)/bin/python -m pip install --quiet lerobot==0.4.4; touch $(LEROBOT)/done; fi
	@$(ENTER); export LMEEC_LEROBOT=$(CURDIR)/$(LEROBOT)/bin/python; \
		$(PYTEST) -m slow test/lmeec_ros/test_dataset_bag.py $(PYTEST_ARGS)

clean:
	rm -rf build install log out

distclean: clean
	rm -rf .venv
