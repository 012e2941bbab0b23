# `make` without a target lists what there is.
PYTHON ?= python3
VENV = .venv
RUN = $(VENV)/bin/python
COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
WHOLE_CLUSTER = --brokers 3 --kill-broker-every 20 --object-store --postgres --predictors 3 --partitions 3
export PYTHONUNBUFFERED = 1

help: ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

env: $(VENV)/.installed ## create .venv with the exact versions of requirements.lock

$(VENV)/.installed: requirements.lock requirements-java.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the packages of requirements.lock, a minute or two ..."
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN) -m tools.local_kafka java || $(VENV)/bin/pip install --quiet -r requirements-java.txt
	touch $@

demo: env ## run the whole pipeline and print a summary (DATASET=..., MESSAGES=200, INTERVAL=0.4, DELAY=0, PREDICTORS=1, BROKERS=1)
	@$(RUN) -m tools.demo $(if $(MESSAGES),--messages $(MESSAGES)) \
		$(if $(INTERVAL),--interval $(INTERVAL)) \
		$(if $(DELAY),--outcome-delay $(DELAY)) $(if $(PREDICTORS),--predictors $(PREDICTORS)) \
		$(if $(BROKERS),--brokers $(BROKERS))

ui: env .venv-mlflow/.installed ## open the page, MLflow and, where installed, Prometheus and Grafana
	$(RUN) -m tools.ui

.venv-mlflow/.installed: requirements-mlflow-ui.txt
	$(PYTHON) -m venv .venv-mlflow
	@echo "Installing MLflow's interface in .venv-mlflow, a minute or two ..."
	@.venv-mlflow/bin/pip install --quiet --disable-pip-version-check -r requirements-mlflow-ui.txt \
		"mlflow==$$(sed -n 's/^mlflow-skinny==\([0-9.]*\).*/\1/p' requirements.lock)"
	touch $@

kafka: env ## start a local Kafka (BROKERS=1, or 3)
	$(RUN) -m tools.local_kafka start $(if $(BROKERS),--brokers $(BROKERS))

stop: env ## stop the Kafka that `make kafka` started
	$(RUN) -m tools.local_kafka stop

init: env ## prepare the data and the first model: initialize.py
	$(RUN) initialize.py

test: env lint ## run the tests, against a broker that they start themselves (under 6 minutes)
	$(RUN) -m pytest -m "not slow"

test-all: env lint ## run the slow tests too (half an hour)
	$(RUN) -m pytest

chaos: env ## kill and freeze processes at random, then audit the log (MINUTES=5, SEED=7; CLUSTER=1: on a whole cluster)
	$(RUN) -m tests.chaos.run --minutes $(or $(MINUTES),5) --seed $(or $(SEED),7) \
		$(if $(BROKERS),--brokers $(BROKERS)) $(if $(CLUSTER),$(WHOLE_CLUSTER))

bench: env ## measure speed: tables with ratios, an hour (ONLY=throughput: 20 minutes, ROUNDS=5)
	$(RUN) -m bench.performance $(if $(ONLY),--only $(ONLY)) --rounds $(or $(ROUNDS),5)

soak: env ## run 500 requests/s while retraining, watch memory, then audit the log (MINUTES=10)
	$(RUN) -m tests.chaos.soak --minutes $(or $(MINUTES),10)

day: env ## simulate a production day in an hour: 10 million requests (MINUTES=60, REQUESTS=10000000)
	$(RUN) -m tests.chaos.day --minutes $(or $(MINUTES),60) --requests $(or $(REQUESTS),10000000)

drift: env ## change all outcomes halfway and show how the model recovers (five minutes)
	$(RUN) -m bench.drift

bench-retrain: env ## measure a retraining, the tutorial's and ours: time, logloss, memory (10 minutes)
	$(RUN) -m bench.retrain

bench-tuning: env ## measure the first model, and what a second tuning gains (10 minutes)
	$(RUN) -m bench.tuning

quality: env ## measure each data set's models beside what is reachable (ONLY=shop, SEEDS=3)
	$(RUN) -m bench.quality $(if $(ONLY),--only $(ONLY)) --seeds $(or $(SEEDS),3)

generations: env ## retrain 200 times: do models get worse, or dearer? (half an hour, TRAININGS=200)
	$(RUN) -m bench.generations --trainings $(or $(TRAININGS),200)

pictures: env .venv-mlflow/.installed ## make the screenshots of docs/ again (20 minutes; ONLY=page, mlflow, drift or drift-recovery)
	$(RUN) -m tools.pictures $(if $(ONLY),--only $(ONLY))

lint: env ## check format and rules with ruff
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

format: env ## format everything with ruff
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lock: env ## update requirements*.lock from requirements*.txt
	$(VENV)/bin/pip install --quiet uv
	$(COMPILE) requirements-dev.txt -o requirements.lock
	$(COMPILE) -c requirements.lock requirements-full.txt -o requirements-full.lock
	$(COMPILE) -c requirements.lock requirements-predictor.txt -o requirements-predictor.lock

clean: env ## delete models, observations, unpacked data, and topics (without a running Kafka, its data); trials stay (YES=1)
	$(RUN) -m tools.clean $(if $(YES),--yes)

forget: ## delete the trials of all tuning
	rm -f data/trials.*

.PHONY: help env demo ui kafka stop init test test-all chaos soak day drift bench bench-retrain bench-tuning \
	quality generations pictures lint format lock clean forget
