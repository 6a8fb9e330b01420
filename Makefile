# Everything runs in .venv, which the first command makes for this machine (scripts/setup.sh).
# PYTHON names the interpreter, EXTRA (cpu, cuda12, cuda13) overrides the choice of MLX's build.
VENV := .venv
BIN := $(VENV)/bin
export PYTHON EXTRA VENV
# What is checked strictly for types: values and text, no MLX.
TYPED := $(addprefix -p calltune.,platform formats functions data tasks serve) \
	$(addprefix -m calltune.,grammar copying grounded grammar_held boundable judging patterns references grammar_json grammar_values frames guide schema errors settings score score_bfcl acceptable compare report report_breakdown report_charts report_data report_page \
	report_text report_rows render rendered guarding template tokenizer batching conversations memory lengths metrics records resuming quarantine agent consent offered trace)

.PHONY: help demo test test-all test-slow nightly lint lock clean

help:
	@echo "make demo      trains a small model to call functions and shows before and after"
	@echo "make test      the tests (about 3 minutes on 2 cores)"
	@echo "make test-all  these, and the slow ones and those against other tools"
	@echo "make test-slow only what test-all has more than test"
	@echo "make nightly   the long ones"
	@echo "make lint      style and types"
	@echo "make lock      writes down the versions of .venv for other developers"
	@echo "make clean     removes .venv and what tools left"

demo: $(VENV)/stamp-run
	$(BIN)/calltune demo $(ARGS)

# Also where the environment says that Python keeps no compiled files: the tests start some hundred processes, and each
# would compile our code anew.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest
# Files of tests side by side, one more than there are cores, since some wait: tiny models gain nothing from a BLAS's
# threads.
WORKERS := $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
test: $(VENV)/stamp-test
	$(PYTEST) -n $(WORKERS) --maxprocesses 4 --dist loadfile $(ARGS)

test-all: $(VENV)/stamp-test-all
	$(PYTEST) -m "not nightly and not gpu" $(ARGS)

test-slow: $(VENV)/stamp-test-all
	$(PYTEST) -m "(slow or torch or browser) and not nightly and not gpu" $(ARGS)

nightly: $(VENV)/stamp-test-all
	$(PYTEST) -m nightly $(ARGS)

lint: $(VENV)/stamp-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)

lock: $(VENV)/stamp-test-all
	@sh scripts/lock.sh

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than pyproject.toml when the environment is complete, so later runs start at once.
$(VENV)/stamp-run: pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh
	@touch $@

$(VENV)/stamp-test: pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh test
	@touch $@ $(VENV)/stamp-run

$(VENV)/stamp-test-all: pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh test test-all
	@touch $@ $(VENV)/stamp-test $(VENV)/stamp-run
