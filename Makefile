# Everything runs from .venv, which each target fills with the pinned packages it needs.
# Needs Python 3.10 to 3.13 with venv; PYTHON=/path/to/python picks one.

CKPT ?= CMG_Ref/runs/g1_all/cmg_final.pt
# The same default as cmg_export's own. The shell finds it: make's functions take a path with a space for two.
OUT ?= engines/$(shell folder=$$(dirname '$(CKPT)'); basename "$$(cd "$$folder" 2>/dev/null && pwd -P || echo "$$folder")")
DATA ?=
NUM_ENVS ?=
PRECISION ?=
ROBOT ?=
JOBS ?= 2
ARGS ?=
PYTHON ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --no-warn-script-location
# Each file that pip fetches must have one of the hashes in requirements/hashed (requirements/hash.sh writes them).
# HASHES=0 takes any file of the pinned version, for another index's builds of torch.
HASHES ?= 1
LISTS := requirements$(if $(filter-out 0,$(HASHES)),/hashed)
INSTALL := $(PIP) --no-deps $(if $(filter-out 0,$(HASHES)),--require-hashes) -r $(LISTS)
# Whether torch is a build that computes with the CUDA libraries from the index.
NEEDS_CUDA := import importlib.metadata as m, sys; sys.exit("nvidia" not in str(m.requires("torch")))

CHECKED := CMG_Ref examples export legged_gym runtime tests

# The versions that mjlab's robot models and the pinned wheels exist for.
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))

# Threads that wait without spinning: where other work shares the cores, spinning makes parity ten times slower.
export OMP_WAIT_POLICY ?= PASSIVE

# glibc's malloc keeps what is freed: parity makes and frees the same large arrays thousands of times.
engine parity: export MALLOC_MMAP_THRESHOLD_ ?= 1000000000
engine parity: export MALLOC_TRIM_THRESHOLD_ ?= 1000000000

# What each target takes on make's command line. Another name there is a misspelt one, which make would ignore.
TAKES_engine := CKPT OUT DATA NUM_ENVS PRECISION ROBOT ARGS
TAKES_parity := CKPT OUT DATA ARGS
TAKES_verify := CKPT OUT DATA BACKEND NUM_ENVS ARGS
TAKES_train := $(TAKES_engine) BACKEND ITERATIONS GPUS RESUME
TAKES_play := $(TAKES_engine) POLICY BACKEND
TAKES_evaluate := $(TAKES_play)
TAKES_drive := $(TAKES_engine) POLICY PORT
TAKES_sim2sim := $(TAKES_engine) POLICY
TAKES_test := JOBS ARGS
TAKES_test-fast := JOBS ARGS
TAKES_test-py38 := ARGS
TAKES_fuzz := SECONDS ARGS
TAKES_test-matrix := UV ARGS
TAKES_demo := $(TAKES_engine)
TAKES_bench := $(TAKES_engine)
TAKES_soak := $(TAKES_engine) STEPS BACKEND
TAKES_ALL := PYTHON HASHES VENV SHELL
GOALS := $(or $(MAKECMDGOALS),help)
TAKEN := $(sort $(foreach goal,$(GOALS),$(TAKES_$(goal))))
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out $(TAKEN) $(TAKES_ALL),$(GIVEN))
ifeq ($(MAKELEVEL),0)
ifneq ($(UNKNOWN),)
$(error make $(GOALS) takes no $(UNKNOWN); it takes $(TAKEN) $(TAKES_ALL))
endif
endif

# Where a target needs an engine and there is none yet: the one of the same CKPT, without the target's own options.
define needs_engine
@test -f '$(OUT)/manifest.json' || $(MAKE) --no-print-directory engine ARGS= NUM_ENVS=
endef

.DEFAULT_GOAL := help
.PHONY: help engine parity verify train play drive evaluate sim2sim test test-fast test-py38 test-matrix lint fuzz demo bench soak clean
.DELETE_ON_ERROR:

help:  ## list the targets (default)
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Options: CKPT=checkpoint.pt DATA=stats.yaml OUT=folder NUM_ENVS=4096 PRECISION=fp32|fp16|all ROBOT=robot.xml"
	@echo "         JOBS=2 (test processes), ARGS='-k name' (passed on), PYTHON=python3.12 (makes .venv)"

engine: $(VENV)/.engine  ## compile CKPT into OUT and check every artifact against it
	@$(PY) -m cmg_export '$(CKPT)' $(if $(filter-out file,$(origin OUT)),--out '$(OUT)') $(if $(DATA),--data '$(DATA)') \
		$(if $(NUM_ENVS),--num-envs $(NUM_ENVS)) $(if $(PRECISION),--precision $(PRECISION)) \
		$(if $(ROBOT),--robot '$(ROBOT)') $(ARGS)

parity: $(VENV)/.engine  ## check the engine in OUT against CKPT again
	@$(PY) -m cmg_export.parity '$(OUT)' '$(CKPT)' $(if $(DATA),--data '$(DATA)') $(ARGS)

verify: $(VENV)/.engine  ## run BACKEND (trt unless given) of the engine in OUT here: parity, then latency
	@$(PY) -m cmg_export.verify '$(OUT)' '$(CKPT)' --backend $(or $(BACKEND),trt) $(if $(DATA),--data '$(DATA)') \
		$(if $(NUM_ENVS),--num-envs $(NUM_ENVS)) $(ARGS)

train: $(VENV)/.train  ## train a walking policy on the engine: NUM_ENVS= BACKEND= ITERATIONS= GPUS= RESUME=1
	$(needs_engine)
	@$(PY) -m cmg_gym.train --engine '$(OUT)' $(if $(NUM_ENVS),--num-envs $(NUM_ENVS)) \
		$(if $(BACKEND),--backend $(BACKEND)) $(if $(ITERATIONS),--iterations $(ITERATIONS)) \
		$(if $(GPUS),--gpus $(GPUS)) $(if $(RESUME),--resume) $(ARGS)

play: $(VENV)/.train  ## draw a policy (the bundled one, or POLICY=) to build/play.gif and .mp4; ARGS=--viewer opens the viewer
	$(needs_engine)
	@$(PY) -m cmg_gym.play --engine '$(OUT)' $(if $(POLICY),--policy '$(POLICY)') $(if $(BACKEND),--backend $(BACKEND)) $(ARGS)

drive: $(VENV)/.train  ## drive a policy (the bundled one, or POLICY=) by keys on a page in the browser: PORT= (8080)
	$(needs_engine)
	@$(PY) -m cmg_gym.drive --engine '$(OUT)' $(if $(POLICY),--policy '$(POLICY)') $(if $(PORT),--port $(PORT)) $(ARGS)

evaluate: $(VENV)/.train  ## measure a policy (the bundled one, or POLICY=) over a grid of commands, into build/evaluation
	$(needs_engine)
	@$(PY) -m cmg_gym.evaluate --engine '$(OUT)' $(if $(POLICY),--policy '$(POLICY)') \
		$(if $(BACKEND),--backend $(BACKEND)) $(ARGS)

sim2sim: $(VENV)/.train  ## run a policy as a robot would, in plain MuJoCo, over a grid of commands: build/sim2sim
	$(needs_engine)
	@$(PY) -m cmg_gym.sim2sim --engine '$(OUT)' $(if $(POLICY),--policy '$(POLICY)') $(ARGS)

test: $(VENV)/.train  ## run the tests; ARGS=tests/runtime/window runs some of them
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

test-fast: $(VENV)/.train  ## run the quick tests, in under a minute: for the edit loop
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadgroup -m "not slow and not gpu" -q $(ARGS)

test-py38: $(VENV)/.test  ## run the runtime's tests on Python 3.8, where there is one
	@tests/py38.sh $(PY) $(ARGS)

lint: $(VENV)/.train  ## ruff and pyright over the whole repository
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/pyright

fuzz: $(VENV)/.test  ## fuzz every reader of files for SECONDS= (300) in all; needs Python 3.11 to 3.13 on Linux
	@test -d $(VENV)/fuzz || $(INSTALL)/fuzz.txt --quiet --target $(VENV)/fuzz
	@PYTHONPATH=.:export:runtime:tests:tests/cases:$(VENV)/fuzz OMP_NUM_THREADS=1 nice $(PY) tests/fuzz.py \
		$(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

test-matrix: $(VENV)/.test  ## run the runtime's tests on other Pythons and torches: UV=uv, gigabytes to fetch
	@$(PY) tests/matrix.py $(if $(UV),--uv '$(UV)') $(ARGS)

demo: $(VENV)/.test  ## render the gait of the engine in OUT to docs/images/gait.gif and gait.png
	$(needs_engine)
	@$(PY) -m cmg_export.demo --engine '$(OUT)' $(ARGS)

bench: $(VENV)/.test  ## time the engine in OUT beside other implementations: table, and JSON and pictures in build/bench
	$(needs_engine)
	@$(PY) -m cmg_export.bench --engine '$(OUT)' --checkpoint '$(CKPT)' $(if $(DATA),--data '$(DATA)') $(ARGS)

soak: $(VENV)/.engine  ## step the engine in OUT for STEPS= with random resets and commands, and check it: build/soak
	$(needs_engine)
	@$(PY) -m cmg_export.soak --engine '$(OUT)' --checkpoint '$(CKPT)' $(if $(DATA),--data '$(DATA)') \
		$(if $(STEPS),--steps $(STEPS)) $(if $(NUM_ENVS),--num-envs $(NUM_ENVS)) $(if $(BACKEND),--backend $(BACKEND)) \
		$(if $(filter-out all,$(PRECISION)),--precision $(PRECISION)) $(ARGS)

clean:  ## remove built engines, caches and build leftovers (.venv stays)
	@find engines -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	@rm -rf .pytest_cache .ruff_cache .hypothesis build dist ./*.egg-info runtime/*.egg-info runtime/build
	@rm -rf legged_gym/isaacgym_warp/*.egg-info legged_gym/isaacgym_warp/build
	@find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up: each stamp is remade when the list it was made from changes.

$(VENV)/.created:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10); do \
		if "$$python" -c '$(SUPPORTED)' 2>/dev/null; then \
			echo "Making $(VENV) with $$("$$python" --version)"; \
			"$$python" -m venv $(VENV) && touch $@; exit; \
		fi; \
	done; \
	echo "error: $(or $(PYTHON),python3) is not Python 3.10 to 3.13 with venv; install one (Debian: python3-venv) or give PYTHON=/path/to/python" >&2; \
	exit 1

$(VENV)/.engine: requirements/engine.txt requirements/tensorrt-rtx.txt requirements/hashed/engine.txt pyproject.toml runtime/pyproject.toml | $(VENV)/.created
	@echo "Installing torch into $(VENV) (a minute or two)"
ifeq ($(HASHES),0)
	@$(PIP) --constraint requirements/engine.txt torch
else
	@$(INSTALL)/torch.txt --no-index >/dev/null 2>&1 || $(INSTALL)/torch.txt  # one that lies on disk, first
	@if $(PY) -c '$(NEEDS_CUDA)'; then $(INSTALL)/cuda.txt; fi
endif
	@echo "Installing $$(grep -c '^[a-z]' requirements/engine.txt) pinned packages (about half a minute)"
	@$(INSTALL)/engine.txt --quiet
	@$(PIP) --quiet --no-deps --no-build-isolation -e . -e ./runtime
	@echo "Installing TensorRT for RTX (optional)"
	@$(INSTALL)/tensorrt-rtx.txt --no-build-isolation >$(VENV)/tensorrt-rtx.log 2>&1 || \
		echo "note: TensorRT for RTX does not install here (see $(VENV)/tensorrt-rtx.log); engines get no TensorRT plan"
	@touch $@

$(VENV)/.test: requirements/test.txt requirements/kernels.txt requirements/tensorrt-lean.txt requirements/hashed/test.txt $(VENV)/.engine
	@echo "Installing $$(grep -c '^[a-z]' requirements/test.txt) packages for tests and pictures (about half a minute)"
	@$(INSTALL)/test.txt --quiet
	@$(PY) -c '$(NEEDS_CUDA)' || $(INSTALL)/kernels.txt --quiet || \
		echo "note: Triton and NVRTC do not install here; the tests of the kernels are skipped"
	@$(INSTALL)/tensorrt-lean.txt --no-build-isolation >$(VENV)/tensorrt-lean.log 2>&1 || \
		echo "note: TensorRT's lean runtime does not install here (see $(VENV)/tensorrt-lean.log); its tests are skipped"
	@touch $@

$(VENV)/.train: requirements/train.txt requirements/hashed/train.txt $(VENV)/.test
	@echo "Installing $$(grep -c '^[a-z]' requirements/train.txt) packages for training (about a minute)"
	@$(INSTALL)/train.txt --quiet
	@touch $@
