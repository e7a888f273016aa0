# What CI runs is what a person runs. `make demo` and `make test` set up everything they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BROKER ?= embedded
DEMO_embedded = $(BIN)/gridwire demo
DEMO_kafka = $(BIN)/python scripts/demo_on_kafka.py

.PHONY: setup demo test check bench soak docs web clean browser

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) scripts/setup_venv.py $(VENV)
	touch $(STAMP)

demo: setup ## a hub with a live demo utility, until Ctrl-C; BROKER=kafka has its log on an Apache Kafka that it starts
	$(DEMO_$(BROKER))

browser: setup ## a browser and kcat for the tests, where the system's package manager can be used
	$(BIN)/python scripts/setup_test_tools.py

test: setup browser ## in three processes: most tests wait for somebody, few keep a core busy
	$(BIN)/python -m pytest -m "not soak" -n 3 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate_docs.py --check
	$(BIN)/python scripts/build_web.py --check

bench: setup
	$(BIN)/python bench/run.py

soak: setup browser ## hours of faults in under an hour; one line a part at the end, see docs/reliability.md
	GRIDWIRE_TEST_KILL_CYCLES=1000 GRIDWIRE_TEST_POWER_CUTS=200 GRIDWIRE_TEST_BIT_FLIPS=100000 \
	GRIDWIRE_TEST_STORM_ROUNDS=60 GRIDWIRE_TEST_CLUSTER_ROUNDS=20 $(BIN)/python -m pytest -m "soak or not soak" --timeout 86400 tests/fault

docs: setup
	$(BIN)/python scripts/generate_docs.py

web: setup ## rebuild the page; needs Node and npm
	$(BIN)/python scripts/build_web.py

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
