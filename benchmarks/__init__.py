"""One script per question. Each writes its answer to `results/NAME.json`, which the docs show."""
