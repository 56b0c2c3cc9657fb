# `make` lists what there is. The first `make run` or `make test` installs everything into .venv (2-3 minutes).
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
WORKERS ?= 2
TABLE ?=
DEVICE ?= auto
HOURS ?= 1
MINUTES ?= 30
SCHEMES := online self_distillation teacher_route multi_teacher specialists adversarial assistants graph data_free \
  cross_modal quantized lifelong student_search student_sweep bit hinton_omit hinton_temperature hinton_fraction hinton_ensemble
# the tests whose numbers depend on how the CPU computes
ARITHMETIC := $(addprefix tests/,test_golden.py test_reference.py test_contract.py models engine/test_graphs.py)
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# compiled once and not by each process that tests start, whatever else is asked of Python here
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run test test-launchers test-avx2 lint format methods readme fidelity schemes bench bench-here evidence faults clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(STAMP)  ## run one experiment: make run ARGS="method=crd student=resnet20"
	$(BIN)/python -m distill $(ARGS)

test: $(STAMP)  ## run the tests: make test ARGS="-k crd" WORKERS=8
	$(PYTEST) $(ARGS)

test-launchers: $(STAMP)  ## run those that start torchrun, W&B's agent and submitit for real
	$(PYTEST) -m launchers $(ARGS)

test-avx2: $(STAMP)  ## run those of arithmetic again, as a CPU with AVX2 alone computes
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(MAKE) test ARGS="$(ARITHMETIC) $(ARGS)"

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy distill

format: $(STAMP)  ## sort imports and mend what ruff can mend
	$(BIN)/ruff check --fix .

methods: $(STAMP)  ## list the methods with their papers
	@$(BIN)/python -m distill methods $(ARGS)

readme: $(STAMP)  ## write the table of methods into distill/docs/which_method.md
	@$(BIN)/python -m distill methods --readme distill/docs/which_method.md

fidelity: $(STAMP)  ## write the table of every method beside its authors' code into CONTRIBUTING.md (two minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fidelity

schemes: $(STAMP)  ## one experiment of every family beyond one frozen teacher, on the digits (about half an hour)
	@for name in $(SCHEMES); do echo "== $$name"; $(BIN)/python -m distill experiment=$$name $(ARGS) || exit $$?; done
	$(BIN)/python scripts/gan_distill.py
	$(BIN)/python -m distill report outputs

bench: $(STAMP)  ## time the loop against bare loops, then a whole table: make bench DEVICE=cuda ARGS="--methods kd,crd"
	$(BIN)/python scripts/bench.py --device $(DEVICE) $(ARGS)
	$(BIN)/python scripts/bench_table.py --device $(DEVICE) $(TABLE)

bench-here: $(STAMP)  ## time this kind of CPU, and folders of JPEGs beside timm's loader and torchvision's
	$(BIN)/python scripts/bench_cpu.py --kinds native
	$(BIN)/python scripts/bench_folder.py

evidence: $(STAMP)  ## the next missing runs behind published numbers: make evidence HOURS=2, ARGS=--list for the queue
	@$(BIN)/python scripts/evidence.py --hours $(HOURS) $(ARGS)

faults: $(STAMP)  ## kills, bad inputs, full disks, sabotaged sweeps: make faults MINUTES=30, calls add up in outputs/faults
	@OMP_NUM_THREADS=1 $(BIN)/python -m scripts.faults --minutes $(MINUTES) $(ARGS)

clean:  ## remove .venv and caches; runs in outputs/ stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find distill tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "distill needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@
