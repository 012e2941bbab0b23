# `make` without a target lists what there is.
PYTHON ?= python3
VENV = .venv
RUN = $(VENV)/bin/python
export PYTHONUNBUFFERED = 1

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

env: $(VENV)/.installed ## a virtual environment with the exact versions of requirements.lock

$(VENV)/.installed: requirements.lock requirements-java.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the packages of requirements.lock, a minute or two ..."
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN) -m tools.local_kafka java || $(VENV)/bin/pip install --quiet -r requirements-java.txt
	touch $@

demo: env ## run the whole pipeline and print a summary (MESSAGES=200, INTERVAL=0.4, DELAY=0, PREDICTORS=1)
	@$(RUN) -m tools.demo $(if $(MESSAGES),--messages $(MESSAGES)) \
		$(if $(INTERVAL),--interval $(INTERVAL)) \
		$(if $(DELAY),--outcome-delay $(DELAY)) $(if $(PREDICTORS),--predictors $(PREDICTORS))

kafka: env ## start a local Kafka
	$(RUN) -m tools.local_kafka start

stop: env ## stop the Kafka that `make kafka` started
	$(RUN) -m tools.local_kafka stop

init: env ## data and the first model: initialize.py
	$(RUN) initialize.py

test: env lint ## the tests, against a broker that they start themselves (under 5 minutes)
	$(RUN) -m pytest -m "not slow"

test-all: env lint ## the slow tests too
	$(RUN) -m pytest

chaos: env ## kill and freeze everything for minutes, then audit the log (MINUTES=5, SEED=7)
	$(RUN) -m tests.chaos.run --minutes $(or $(MINUTES),5) --seed $(or $(SEED),7)

bench: env ## every figure about speed, as tables with ratios, a quarter of an hour (ONLY="throughput start", ROUNDS=5)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	$(RUN) -m bench.performance $(if $(ONLY),--only $(ONLY)) --rounds $(or $(ROUNDS),5)

soak: env ## ten minutes of 500 requests/s while retraining: memory, then the audit (MINUTES=10)
	$(RUN) -m tests.chaos.soak --minutes $(or $(MINUTES),10)

drift: env ## turn the world upside down, and see the model recover: five minutes
	$(RUN) -m bench.drift

bench-retrain: env ## seconds, logloss, memory of a retraining, the tutorial's and ours (10 minutes)
	$(RUN) -m bench.retrain

bench-tuning: env ## what the first model reaches, and a second optimisation gains (10 minutes)
	$(RUN) -m bench.tuning

lint: env ## ruff: format and rules
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

format: env ## let ruff format everything
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lock: env ## write requirements.lock anew from requirements*.txt
	$(VENV)/bin/pip install --quiet uv
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		requirements-dev.txt -o requirements.lock

clean: ## delete models, observations, topics and unpacked data; Kafka goes on, the trials stay
	[ ! -f $(VENV)/.installed ] || $(RUN) -m tools.clean

forget: ## delete the trials of all tunings so far
	rm -rf data/trail data/trials.db*

.PHONY: help env demo kafka stop init test test-all chaos soak drift bench bench-retrain bench-tuning \
	lint format lock clean forget
