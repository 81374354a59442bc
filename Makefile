# SPDX-License-Identifier: Apache-2.0
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build test test-core test-planner demo bench lab lint clean

# The built packages, a ROS domain for this run alone, no talk beyond this host, and one thread for
# each of the processes that share the machine's cores.
run = . ./env.bash && export ROS_DOMAIN_ID=$$(($$$$ % 100 + 1)) \
	ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST OMP_NUM_THREADS=1 &&

help:
	@echo 'make demo       set everything up and run the main job between two ROS 2 processes'
	@echo 'make test       set everything up and run all tests'
	@echo 'make test-core  the tests of hp_inference that need no ROS'
	@echo 'make test-planner  the tests of hp_planner that need no ROS'
	@echo 'make bench      every measurement in bench/, short and not judged; with FULL=1 all of each,'
	@echo '                then what fell short of its goals (ARGS= for other options)'
	@echo 'make lab        two hosts on this machine with a link of their own: install, check, test'
	@echo 'make lint       check the style'
	@echo 'make setup      only the virtual environment .venv'
	@echo 'make build      also build both packages; then ". ./env.bash" to use them'
	@echo 'make clean      remove all that setup and build made'
	@echo "ARGS='...' is passed on, as in make test ARGS='-k codec -x'"

setup:
	@.ci/setup.sh

build:
	@.ci/build.sh

# Two processes for what only computes; one at a time for what starts nodes of its own. Selecting
# none of one by ARGS (pytest's status 5) is no failure.
computing = python -m pytest -m 'not ros' -n 2 --dist worksteal --ignore test/lab --ignore test/nodes $(ARGS)
core = $(computing) --ignore test/planner --ignore test/bench || [ $$? = 5 ]
planner = $(computing) test/planner test/bench || [ $$? = 5 ]
ros = python -m pytest -m ros --ignore test/lab $(ARGS) || [ $$? = 5 ]
lab = python -m pytest test/lab $(ARGS) || [ $$? = 5 ]

test: build
	@$(run) python -c 'import hp_inference.nodes' && { $(core); } && { $(planner); } && { $(ros); } \
		&& { $(lab); }

test-core: setup
	@PATH="$$PWD/.venv/bin:$$PATH" OMP_NUM_THREADS=1 && export PATH OMP_NUM_THREADS && { $(core); }

test-planner: setup
	@PATH="$$PWD/.venv/bin:$$PATH" OMP_NUM_THREADS=1 && export PATH OMP_NUM_THREADS && { $(planner); }

demo: build
	@$(run) python examples/demo.py $(ARGS)

bench: build
	@$(run) python bench/_all.py $(if $(FULL),$(ARGS),$(or $(ARGS),--quick))

lab: build
	@.ci/lab.sh
	@$(run) { $(lab); }

lint: setup
	@.venv/bin/python -m ruff check $(ARGS) .

clean:
	rm -rf build install log "$$(readlink -f .venv)" .venv
