# make demo   install, then turn sounds into pictures, and pictures and a text into sounds (miniature models, CPU, offline)
# make test   install, then run all tests, WORKERS of them side by side (2; each may take 3 GB)
# make claims the papers' claims, tried in the miniature and written to docs/claims.md
# make docs   install, then build the site into outputs/site, without a network; a broken link ends it
# make test-processors   the numbers of the tests as other processors would round them: five runs, none of them needed daily
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.xmodal-installed
WORKERS ?= 2
export HF_HUB_OFFLINE = 1

.PHONY: install demo test test-processors lint docs bench claims clean

install: $(STAMP)

# Again only when the metadata or the tested versions change.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .[dev] -c constraints.txt
	touch $@

demo: $(STAMP)
	$(BIN)/xmodal generate examples/sounds/*.wav --to image -o outputs/demo
	$(BIN)/xmodal generate examples/pictures/*.png "two large bells" --to audio --spectrogram -o outputs/demo
	@echo "Pictures and sounds are in $(CURDIR)/outputs/demo"

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-processors: $(STAMP)
	PYTHON=$(BIN)/python WORKERS=$(WORKERS) .ci/processors

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP)
	for script in $(filter-out benchmarks/gpu.py benchmarks/documents.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

# What the papers claim, tried in the miniature: trains what is not under outputs/ yet, measures, writes docs/claims.md and the
# numbers of the other documents.
claims: $(STAMP)
	$(BIN)/python benchmarks/audiotoken_table.py
	$(BIN)/python benchmarks/v2a_mini.py --steps 15
	$(BIN)/python benchmarks/mapper_ambiguity.py --sounds --count 128 --steps 15
	$(BIN)/python benchmarks/clipsonic_mini.py --training-steps 300 --steps 15
	$(BIN)/python benchmarks/sweeps.py
	$(BIN)/python benchmarks/claims.py
	$(BIN)/python benchmarks/documents.py

clean:
	rm -rf outputs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
