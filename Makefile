# Everything runs from .venv in this folder; `make setup` makes it, and every target that needs it
# brings it up to date first when pyproject.toml or constraints.txt have changed.
.DEFAULT_GOAL := help
.PHONY: help setup dry-run rehearse test lint bench chaos system-deps clean FORCE

# Named on the command line or in the environment, these are looked at even if .venv is ready.
export PYTHON TORCH_INDEX
READY := .venv/ready
DRY_RUN := $(CURDIR)/dry-run
PREFECT := $(CURDIR)/.venv/prefect
ifneq ($(PYTHON)$(TORCH_INDEX),)
$(READY): FORCE
endif

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' \
		$(MAKEFILE_LIST)
	@echo
	@echo "  make setup PYTHON=python3.12   uses that Python (3.11 or newer)"
	@echo "  make setup TORCH_INDEX=URL     takes torch and torchvision from that index:"
	@echo "      without CUDA it is a quarter of the size. The URL of PyTorch's CPU index"
	@echo "      is what pytorch.org, Get Started, shows after --index-url when you choose"
	@echo "      pip and CPU."
	@echo "  make chaos CASE=\"…\"            tries one case again, by its name"
	@echo "  make chaos MATCH=text          only cases with this in their name"
	@echo "  make chaos SHARD=2/4           only this part of them"
	@echo "  make chaos GO_ON=file          notes what held, and goes on after that"

setup: $(READY) $(PREFECT)/prefect.db ## Make .venv and install everything into it
	@echo "Ready: .venv/bin/voc-train --help"

$(READY): pyproject.toml constraints.txt
	@tools/setup.sh

# The dry run has a Prefect of its own: yours, and the server you may have set, stay untouched.
$(PREFECT)/prefect.db: $(READY)
	@PREFECT_HOME=$(PREFECT) PREFECT_SERVER_ANALYTICS_ENABLED=false \
		.venv/bin/prefect server database upgrade -y >/dev/null && touch $@

dry-run: $(READY) $(PREFECT)/prefect.db ## The whole flow on a small generated archive, on the CPU
	@mkdir -p $(DRY_RUN)
	@.venv/bin/python -m pipeline.sample_archive $(DRY_RUN)/shapes.tar
	@env -u PREFECT_API_URL VOC_TRAIN_HOME=$(DRY_RUN) PREFECT_HOME=$(PREFECT) \
		.venv/bin/voc-train run local --archive $(DRY_RUN)/shapes.tar \
		--classes background,disc,ring,cross --recipe tiny --wandb offline

rehearse: $(READY) $(PREFECT)/prefect.db ## The whole rental against a simulated Linode, free (Linux)
	@env -u PREFECT_API_URL VOC_TRAIN_HOME=$(DRY_RUN) PREFECT_HOME=$(PREFECT) \
		.venv/bin/voc-train rehearse

test: $(READY) ## The tests; with CI=true the system packages first
ifeq ($(CI),true)
	@tools/system_deps.sh
else
	@tools/system_deps.sh --check
endif
	@.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY) ## ruff and mypy --strict
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy --strict

bench: $(READY) ## Ratios to what one would use instead, and growth: bench/
	@mkdir -p bench
	@-PYTHONPATH=tests/support .venv/bin/python tests/bench/ratios.py --into bench/ratios.md
	@-PYTHONPATH=tests/support .venv/bin/python tests/bench/growth.py --into bench/growth.png
	@.venv/bin/python tests/bench/stages.py
	@PYTHONPATH=tests/support .venv/bin/python tests/bench/by_heart.py

# CASE=name, MATCH=part of names, SHARD=1/4, GO_ON=file to continue with.
chaos: $(READY) ## Every act of a rental goes wrong in every way
	@PYTHONPATH=tests/support .venv/bin/python -m chaos $(if $(CASE),--case "$(CASE)") \
		$(if $(MATCH),--match "$(MATCH)") $(if $(SHARD),--shard $(SHARD)) \
		$(if $(GO_ON),--go-on $(GO_ON))

system-deps: ## Install what some tests need (Debian, Ubuntu)
	@tools/system_deps.sh

clean: ## Remove .venv and what tools left here; runs and stores stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
