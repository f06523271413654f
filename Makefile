# make demo: see it work.  make test: check it.  make check: format, lint and test, for a change.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
BIN = $(VENV)/bin
DEMO = demo
RECIPE = --image-size 192x256 --mb2-width-mult 0.5 --augmentation light \
  --lr 0.004 --batch-size 8 --epochs 40 --eval-every 10
READY = $(VENV)/.ready
# The tests run in JOBS processes of one torch thread each; those of a file stay in one process,
# and share what its fixtures have trained.
JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test check docs bench clean-demo

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[$(EXTRAS)]"
	touch $@

demo: $(READY)
	$(BIN)/python -m vision.datasets.sample --path $(DEMO)/data
	$(BIN)/python fix_coco_annotations.py --path $(DEMO)/data
	if [ -e $(DEMO)/run/config.json ]; then \
	  $(BIN)/python train_ssd.py --resume $(DEMO)/run; \
	else \
	  $(BIN)/python train_ssd.py --datasets $(DEMO)/data --checkpoint-folder $(DEMO)/run $(RECIPE); \
	fi
	$(BIN)/python eval_ssd.py --trained-model $(DEMO)/run --dataset $(DEMO)/data --output-dir $(DEMO)/eval
	$(BIN)/python run_ssd_example.py --trained-model $(DEMO)/run $(DEMO)/data/val2017 \
	  --output-dir $(DEMO)/pictures
	@cat docs/next-steps.txt

test: $(READY)
	$(PYTEST)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PYTEST)

# What the documents take from the program.
docs: $(READY)
	$(BIN)/python -m docs.flags_page
	$(BIN)/python -m docs.networks_table

bench: $(READY)
	PYTHONPATH=. $(BIN)/python benchmarks/run_quick.py

clean-demo:
	rm -rf $(DEMO)
