"""Runs a stage of the pipeline by name: `python run_pipeline.py Report --dataset shapes`; see `--help`."""

import sys

from split_matching.__main__ import (
    main,  # imports only the standard library, so that it can say which package is missing
)

if __name__ == "__main__":
    sys.exit(main())
