# SPDX-License-Identifier: Apache-2.0
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build test test-long test-core test-planner test-cli demo bench lab lint docs clean

# The built packages, and one thread for each of the processes that share the machine's cores.
run = . ./env.bash && export OMP_NUM_THREADS=1 &&
# A command in a ROS domain for this run alone, without talk beyond this host.
alone = python test/own_domain.py

help:
	@echo 'make demo       set everything up and run the main job between two ROS 2 processes'
	@echo 'make test       set everything up and run all tests but the long ones'
	@echo 'make test-long  the tests that take too long for make test'
	@echo 'make test-core  the tests of hp_inference that need no ROS'
	@echo 'make test-planner  the tests of hp_planner that need no ROS'
	@echo 'make test-cli   the tests of the hp command'
	@echo 'make bench      every measurement in bench/, short and not judged; with FULL=1 all of each,'
	@echo '                then what fell short of its goals (ARGS= for other options)'
	@echo 'make lab        two hosts on this machine with a link of their own: install, check, test'
	@echo 'make lint       check the style'
	@echo 'make docs       write docs/parameters.md and the messages in docs/interfaces.md anew'
	@echo 'make setup      only the virtual environment .venv'
	@echo 'make build      also build both packages; then ". ./env.bash" to use them'
	@echo 'make clean      remove all that setup and build made'
	@echo "ARGS='...' is passed on, as in make test ARGS='-k codec -x'"

setup:
	@.ci/setup.sh

build:
	@.ci/build.sh

test: build
	@$(run) .ci/test.sh 'not long' core planner cli ros lab -- $(ARGS)

test-long: build
	@$(run) .ci/test.sh long core planner cli ros lab -- $(ARGS)

test-core test-planner test-cli: setup
	@PATH="$$PWD/.venv/bin:$$PATH" .ci/test.sh 'not long' $(@:test-%=%) -- $(ARGS)

demo: build
	@$(run) $(alone) python examples/demo.py $(ARGS)

bench: build
	@$(run) $(alone) python bench/_all.py $(if $(FULL),$(ARGS),$(or $(ARGS),--quick))

lab: build
	@.ci/lab.sh
	@$(run) .ci/test.sh 'not long' lab -- $(ARGS)

lint: setup
	@.venv/bin/python -m ruff check $(ARGS) .

docs: build
	@$(run) python docs/generate.py

clean:
	rm -rf build install log "$$(readlink -f .venv)" .venv
