"""Runs a stage of the pipeline by name: `python run_pipeline.py Report --dataset shapes`; see `--help`."""

import sys

from split_matching.pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
