# make demo        spoil masks, train a minute, open the review panel
# make test        the tests that take seconds; make test-slow: the others
# make lint        ruff (rules and layout) and mypy
# make env         only the environment: .venv, made once and again when its inputs change
#
# VENV and EXTRAS choose another environment, as the two targets `test-pyqt6` and `test-review` do.

comma := ,
empty :=
space := $(empty) $(empty)

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= all,dev
TORCH := $(shell grep '^torch==' constraints.txt)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
ARGS ?=

# Training comes with `all` and `train`; without them torch must not be there.
WITH_TORCH := $(filter all train,$(subst $(comma),$(space),$(EXTRAS)))

.PHONY: env demo test test-slow test-pyqt6 test-review lint clean system-libs

env: $(VENV)/.installed

system-libs:
	@tools/system-libs.sh

# pip is the last thing that venv makes: where it is, the environment is whole.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# Torch first and alone, pinned: as a dependency of something else its newest build would be taken.
$(VENV)/.torch: constraints.txt | $(BIN)/pip
	$(if $(WITH_TORCH),$(PIP) install "$(TORCH)" -c constraints.txt)
	@touch $@

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/.torch
	@echo "Installing napari-noisylabel[$(EXTRAS)] into $(VENV)"
	$(PIP) install -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

demo: system-libs env
	@if tools/with-display.sh --have; then \
	    $(BIN)/noisylabel demo demo-project; \
	else \
	    echo "No display here: the demo runs under a virtual one and leaves a picture of its window."; \
	    tools/with-display.sh $(BIN)/noisylabel demo demo-project --screenshot demo.png && \
	    echo "The picture is in demo.png"; \
	fi

# pytest-xvfb gives the tests a virtual display of their own where Xvfb is installed. A file stays in one process,
# for its tests share what they set up; a process takes 1 GB at most.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test: system-libs env
	$(PYTEST) $(ARGS)

test-slow: system-libs env
	$(PYTEST) -m slow $(ARGS)

test-pyqt6:
	$(MAKE) test VENV=.venv-pyqt6 EXTRAS=train,dicom,fast,pyqt6,dev

# The review-only install: no torch.
test-review:
	$(MAKE) test VENV=.venv-review EXTRAS=pyqt5,dev

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info demo-project demo-project-data demo.png .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
