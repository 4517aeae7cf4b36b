"""The command line: one verb a stage, and verbs that ask about the cache.

Exit codes: 0 the result is fresh, 1 a stage failed, 2 wrong usage or config, 3 data or weights missing, 4 a file of the
cache is damaged, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from split_matching.cache.disk_errors import REFUSALS, refusal
from split_matching.environment import explain_missing_package
from split_matching.errors import ConfigError, UserError, one_line

if TYPE_CHECKING:
    from split_matching.pipeline.plan import Plan

EPILOG = """exit codes: 0 fresh, 1 a stage failed, 2 wrong usage or config, 3 data or weights missing,
4 a file of the cache is damaged, 130 interrupted (the same command goes on from there)

examples:
  run_pipeline.py Report --dataset shapes
  run_pipeline.py ClusterPseudoMasks --dataset shapes --images train_000001,train_000002
  run_pipeline.py Evaluate --dataset voc --set data.root=/data train.steps=5000 --workers 4
  run_pipeline.py plan Report --dataset shapes --set pseudo_masks.merge=0.8
"""
VERBS = {
    "status": "how every stage stands: fresh, stale (why), partial, missing or corrupt",
    "plan": "what a stage would run, why, and how long it took before; runs nothing",
    "config": "the resolved config, every value explained",
    "verify": "read every file of the cache that the config reaches, and set damaged ones aside",
    "check-data": "what a data set holds and what is odd about it; needs nothing but the data",
    "inspect": "pictures of what the cache holds about an image",
    "diff": "what tells two artifacts apart: config, code, environment",
    "adopt": "accept the present code for what is in the cache, and run nothing",
    "gc": "remove what no config reaches; shows sizes, and asks",
}
EXPERIMENTS = {
    "ablate": "a table of variants over seeds, against the data set's own config",
    "tune": "settings, or gamma alone, chosen on folds of seen classes",
}
CHECK_HELP = """
Looks at the lists, and at every image and mask: pixels and images of each class, masks of the wrong kind or size, ids
outside the class list and shifted ids, absent files, images that are in both splits. Draws images beside their masks on
a contact sheet, and prints its path last. Needs nothing but the data, and makes nothing in the cache.
"""
CHECK_EPILOG = """
exit codes: 0 fine (there may be notes), 2 wrong usage or config, 3 there are problems, or no data

examples:
  run_pipeline.py check-data --dataset folder --set data.root=/data 'data.unseen=[sofa, train]'
  run_pipeline.py check-data --dataset /data/mydata.yaml --limit 500 --out sheet.png
"""
USES = {
    "predict": "label your own images with any class names, by a trained run",
    "export": "write a trained decoder and its config to one file",
}
PREDICT_HELP = """
Labels every pixel of an image, or of all images in a folder and below, with one of the given class names: any names,
whether in training or not. Writes for each image NAME.overlay.png with a legend, NAME.index.png (pixel values are
places in the list of names) and NAME.areas.json. Images whose results are there already, of the same run and names,
are kept; so an interrupted command goes on where it stopped. Needs a trained, fresh run of the config, or --decoder.
"""
PREDICT_EPILOG = """
exit codes: 0 all images are labelled, 2 wrong usage, names or config, 3 no trained run, no image, or some image could
not be read (the others are labelled)

examples:
  run_pipeline.py predict --dataset voc --image photos/ --classes "dog, sofa, traffic cone" --out labelled/
  run_pipeline.py predict --decoder decoder.safetensors --image street.jpg --classes names.txt --out labelled/
"""
EXPORT_HELP = """
Writes the trained decoder of a config to one safetensors file, with the settings that inference needs. CLIP's weights
are not in it: which they are is recorded as a digest, and checked when the file is loaded.
"""
EXPORT_EPILOG = """
exit codes: 0 written, 2 wrong usage or config, 3 no trained run, or weights missing

example: run_pipeline.py export --dataset voc --out decoder.safetensors
"""
STAGE_HELP = """
What is fresh in the cache is not made again. Ctrl-C at any time: finished shards and checkpoints are kept, and the same
command goes on from there. The last line printed is the path of the result."""
STAGE_EPILOG = """
exit codes: 0 fresh, 1 a stage failed, 2 wrong usage or config, 3 data or weights missing, 4 a file of the cache is
damaged, 130 interrupted

examples:
  run_pipeline.py {name} --dataset shapes --workers 2
  run_pipeline.py plan {name} --dataset shapes --set train.steps=300     what that would run
"""
CONFIG_HELP = """
Prints the resolved config as YAML, every value explained: a file of this text is a valid --set-file. Values marked
`runtime` change no result and rerun nothing.
"""
CONFIG_EPILOG = """
exit codes: 0 printed, 2 wrong usage or config

example: run_pipeline.py config --dataset voc --set train.steps=5000
"""
STATUS_HELP = """
Prints a tree of all stages, and how each stands:

  fresh     nothing needs to run
  stale     made by other code or from other inputs; the reason says which
  partial   begun and interrupted, with the finished shards; the next run goes on from there
  missing   not made for this config
  corrupt   a file is absent or damaged; the next run makes that file again

Reads no file but manifests, and changes nothing.
"""
STATUS_EPILOG = """
exit codes: 0 printed, whatever the state, 2 wrong usage or config

example: run_pipeline.py status --dataset shapes --set pseudo_masks.merge=0.8
"""
PLAN_HELP = """
Prints what a stage would run, and runs nothing: for every stage on the way whether it would run, why, how many shards,
and how long it took before, with this config or the other one that is most like it. A stage whose rebuilt input comes
out the same as before does not run after all.
"""
PLAN_EPILOG = """
exit codes: 0 printed, 2 wrong usage or config, 3 data or weights missing

example: run_pipeline.py plan Report --dataset shapes --set pseudo_masks.merge=0.8
"""
VERIFY_HELP = """
Reads every file of the cache that the config reaches, and compares it with the checksum that was taken when it was
written. A damaged file is renamed to FILE.damaged, so that the next run makes it again, and nothing else. With --all
likewise every other artifact of the cache, of whatever config and data set.
"""
VERIFY_EPILOG = """
exit codes: 0 all files are as they were written, 2 wrong usage or config, 4 some file was damaged or absent

example: run_pipeline.py verify --dataset shapes
"""
INSPECT_HELP = """
Draws what the cache holds about one image, prints the same as text, and the path of the picture last:

  pseudo_masks  regions with number, area, how well each stands apart, and the nearest seen classes
  regions       what CLIP says of the crop of each region
  features      dense features as colours, and the nearest seen class of every token
  matches       which query of each group took which target, with the trained weights
  predictions   truth and prediction of a validation image, and the IoU of each class in it
  quality       numbers, no picture, no --image: how well clusters cover annotated seen classes, and how often CLIP
                names them right; pseudo_masks and regions can be tuned by it without a look at unseen classes

Without --image, pseudo_masks makes one HTML page of all images, to filter by class, area and number of regions and to
sort by quality. Artifacts are shown as they are, stale or not; the text says which.
"""
INSPECT_EPILOG = """
exit codes: 0 drawn, 2 wrong usage or config, 3 no such image, or nothing in the cache to show, 4 a damaged file

examples:
  run_pipeline.py inspect pseudo_masks --dataset shapes --image train_000012
  run_pipeline.py inspect pseudo_masks --dataset shapes --out gallery.html
"""
DIFF_HELP = """
Prints what tells two artifacts apart: config, code, inputs, environment, and what came out. The beginning of a key is
enough; STAGE-FOLDER/KEY, e.g. train/49ae, looks among those of one stage.
"""
DIFF_EPILOG = """
exit codes: 0 printed, 2 no key, or the beginning of several, 3 no such artifact

example: run_pipeline.py diff 2be83e14 97991bcb
"""
ADOPT_HELP = """
Records the present code as that which made the artifact of a stage, so that it is fresh again: for a change that
cannot alter what comes out, such as another error message. Says which files it accepted; a stage that is stale for
another reason stays stale.
"""
ADOPT_EPILOG = """
exit codes: 0 accepted, 2 wrong usage or config, 3 data or weights missing, 4 there is no readable artifact

example: run_pipeline.py adopt ExtractFeatures EmbedRegions --dataset shapes
"""
GC_HELP = """
Removes what no known config reaches: known are all in configs/, and the given one with its --set, without
--set-file, with each alone and with all. Of the others the newest of each stage stay (--keep). Goes also: what a killed
process left, and builds in progress that nobody has written to for a day and no known config goes on from. Never
removed: a build that a running process holds, what a build in progress reads, and a stage whose key cannot be told
because its raw files are not there.
"""
GC_EPILOG = """
exit codes: 0 done, or nothing to do, 2 wrong usage or config, or nobody to ask

example: run_pipeline.py gc --dataset shapes --set-file configs/ablations/*.yaml --keep 5 --dry-run
"""
ABLATE_HELP = """
Evaluates the data set's own config ("default") and every variant with every seed, and writes table.md, table.csv,
table.json and ablation.html: means and deviations over seeds, and differences to the default paired by seed. What
two runs share is made once; the same command goes on where it stopped, and runs nothing twice.
"""
ABLATE_EPILOG = """
exit codes: 0 all runs are in the table, 1 some run failed (the others are in the table), 2 wrong usage or config and
3 data or weights missing (nothing was run), 130 interrupted (the same command goes on from there)

example: run_pipeline.py ablate --dataset shapes --set-file configs/ablations/*.yaml --seeds 5
"""
TUNE_HELP = """
Chooses settings without a look at the unseen classes. Each fold hides some seen classes in training, and evaluation
counts those as unseen; pixels of the truly unseen classes are ignored. A point of the grid is run on all folds with
all seeds; its score is the mean hIoU at the gamma that is best for the mean of its runs. Writes choice.yaml (takes
part as a --set-file, gamma included) and tune.json. With --gamma-only it writes gammas.yaml: gamma for the data set's
own config and for each --set-file, all chosen by this one rule; ablate reads it.
"""
TUNE_EPILOG = """
exit codes: 0 chosen, 1 some point failed (the choice is among the others), 2 wrong usage or config and 3 data or
weights missing (nothing was run), 130 interrupted (the same command goes on from there)

examples:
  run_pipeline.py tune --dataset shapes --grid configs/tuning/shapes.yaml
  run_pipeline.py tune --dataset shapes --gamma-only --set-file configs/ablations/*.yaml
"""


KINDS = ("pseudo_masks", "regions", "features", "matches", "predictions", "quality")
QUESTIONS = {
    "status": (STATUS_HELP, STATUS_EPILOG),
    "plan": (PLAN_HELP, PLAN_EPILOG),
    "config": (CONFIG_HELP, CONFIG_EPILOG),
    "verify": (VERIFY_HELP, VERIFY_EPILOG),
    "check-data": (CHECK_HELP, CHECK_EPILOG),
    "inspect": (INSPECT_HELP, INSPECT_EPILOG),
    "diff": (DIFF_HELP, DIFF_EPILOG),
    "adopt": (ADOPT_HELP, ADOPT_EPILOG),
    "gc": (GC_HELP, GC_EPILOG),
}


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        from split_matching.pipeline.run.torchrun import together

        code = together(lambda: _main(arguments))
        sys.stdout.flush()
        return code
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `status | head`: nobody reads on
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        if (number := refusal(error)) is not None:  # e.g. a cache folder that may not even be read
            name = getattr(error, "filename", None) or "the cache"
            print(
                f"error: cannot use {one_line(str(name))}: {os.strerror(number).lower()}; {REFUSALS[number]}",
                file=sys.stderr,
            )
            return 1
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("split_matching"):
            print(f"error: {explain_missing_package(error)}", file=sys.stderr)
            return 2
        again = "" if debug else "; rerun with --debug"
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, OSError) and error.filename and error.strerror:
            what = f"{error.filename}: {error.strerror.lower()}"
        print(f"error: {one_line(what)}{again}", file=sys.stderr)
        return 1


def _main(arguments: list[str]) -> int:
    from split_matching.pipeline.plan import STAGES

    names = [stage.name for stage in STAGES]
    _check_verb(arguments, [*names, *VERBS, *USES, *EXPERIMENTS])
    options, unknown = _parser({stage.name: stage.makes for stage in STAGES}).parse_known_args(arguments)
    if unknown:
        raise ConfigError(f"unrecognized arguments: {' '.join(unknown)}; see run_pipeline.py {options.verb} --help")
    _check_out(options)
    if options.verb in EXPERIMENTS:
        return _experiment(options, arguments)
    from split_matching.configs.load import describe, load_config
    from split_matching.pipeline.plan import Plan

    config = load_config(options.dataset, options.set_file, [*options.set, *_runtime_overrides(options)])
    if options.verb == "config":
        print(describe(config))
        return 0
    if options.download:
        from split_matching.pipeline.verbs.download import download

        download(config, options.quiet)
    plan = Plan(config)
    if options.verb in names:
        from split_matching.pipeline.run.launch import Options, launch

        how = Options(options.force, options.debug, options.quiet)
        return launch(plan, plan.named(options.verb), how)
    if options.verb in USES:
        return _use(plan, options)
    if options.verb in ("diff", "adopt", "gc"):
        return _upkeep(plan, options)
    from split_matching.pipeline.verbs import status as show

    if options.verb == "verify":
        from split_matching.pipeline.repair import verify

        lines, well = verify(plan, options.all)
        print(*lines, sep="\n")
        return 0 if well else 4
    if options.verb == "check-data":
        from split_matching.pipeline.verbs.check_data import check

        lines, well = check(plan, options.out, options.limit)
        print(*lines, sep="\n")
        return 0 if well else 3
    if options.verb == "inspect":
        from split_matching.pipeline.verbs.inspect import inspect

        print(*inspect(plan, options.kind, options.image, options.out, options.limit), sep="\n")
    elif options.verb == "plan":
        stage = plan.named(options.stage)
        if options.force:
            plan = plan.superseding(stage.slug)
        print(show.plan_json(plan, stage) if options.json else "\n".join(show.plan_lines(plan, stage)))
    elif options.json:
        print(show.status_json(plan))
    else:
        print(*show.status_lines(plan), sep="\n")
    return 0


def _check_out(options: argparse.Namespace) -> None:
    """Refuse an --out of the wrong kind before anything is computed for it."""
    out = getattr(options, "out", None)
    if out is None or not out.exists():
        return
    folder = options.verb in ("predict", "ablate", "tune")
    if folder and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; expected a folder, there or not")
    if not folder and out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; expected the name of a file in it")


def _use(plan: Plan, options: argparse.Namespace) -> int:
    """Run `predict` or `export`."""
    from split_matching.pipeline.run.worker import use_threads
    from split_matching.pipeline.verbs.predict import predict, segmenter_of

    use_threads(plan, alone=True)
    given = ["--dataset", options.dataset]
    given += ["--artifacts", options.artifacts] if options.artifacts else []
    given += ["--set-file", *map(str, options.set_file)] if options.set_file else []
    given += ["--set", *options.set] if options.set else []
    given += ["--images", ",".join(options.images)] if options.images else []
    if options.verb == "export":
        segmenter_of(plan, given).save(options.out)
        print(options.out)
        return 0
    if options.decoder is None:
        segmenter = segmenter_of(plan, given)
    else:
        from split_matching.stages.inference.segmenter import Segmenter

        if options.set_file or any(not value.startswith("clip.weights=") for value in options.set):
            raise ConfigError("--decoder brings its own settings: leave out all but --set clip.weights=PATH")
        weights = [value.removeprefix("clip.weights=") for value in options.set if value.startswith("clip.weights=")]
        segmenter = Segmenter.load(options.decoder, "".join(weights[-1:]), plan.config.runtime.device)
    lines, code = predict(segmenter, options.image, options.classes, options.out, options.quiet)
    print(*lines, sep="\n")
    return code


def _upkeep(plan: Plan, options: argparse.Namespace) -> int:
    """Run `diff`, `adopt` or `gc`."""
    from split_matching.configs.load import load_config
    from split_matching.pipeline.verbs import gc as upkeep

    if options.verb == "gc":
        if options.keep < 0:
            raise ConfigError(f"argument --keep: {options.keep} is negative; expected 0 or more")
        overrides = [*options.set, *_runtime_overrides(options)]
        alone = [load_config(options.dataset, files, overrides) for files in ([], *([f] for f in options.set_file))]
        return upkeep.gc(plan, [plan.config, *alone], options.keep, dry_run=options.dry_run, yes=options.yes)
    lines = (
        upkeep.diff_lines(plan, *options.keys) if options.verb == "diff" else upkeep.adopt_lines(plan, options.stages)
    )
    print(*lines, sep="\n")
    return 0


def _check_verb(arguments: list[str], verbs: list[str]) -> None:
    """Refuse an unknown stage with the name that was probably meant; argparse would list them all."""
    if not arguments:
        raise ConfigError(f"no stage given: expected one of {', '.join(verbs)}")
    of_stages = arguments[0] in ("plan", "adopt")
    words = arguments[1:2] if of_stages else arguments[:1]
    known = [verb for verb in verbs if verb not in {**VERBS, **USES, **EXPERIMENTS}] if of_stages else verbs
    for word in words:
        if word in known or word.startswith("-"):
            continue
        by_lower = {"help": "--help", **{verb.lower(): verb for verb in known}}
        close = difflib.get_close_matches(word.lower(), by_lower, 1, 0.5)
        meant = f"did you mean {by_lower[close[0]]}?" if close else f"expected one of {', '.join(known)}"
        raise ConfigError(f"unknown stage {word!r}: {meant}")


def _parser(stages: dict[str, str]) -> Parser:
    parser = Parser(
        prog="run_pipeline.py",
        description="Split Matching: zero-shot semantic segmentation from cached CLIP features. A stage runs "
        "whatever it needs that is not in the cache.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="STAGE or VERB", required=True, title="stages and verbs")
    for name, makes in stages.items():
        stage = verbs.add_parser(
            name,
            help=makes,
            description=f"Makes {makes}, and whatever that needs.\n{STAGE_HELP}",
            epilog=STAGE_EPILOG.format(name=name).strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_config_options(stage)
        _add_trial(stage)
        stage.add_argument("--force", action="store_true", help="make this one stage again though it is fresh")
        stage.add_argument("--quiet", action="store_true", help="print the path of the result only")
        if name == "PrepareDataset":
            stage.add_argument("--download", action="store_true", help="first download and derive what is missing")
    _add_questions(verbs)
    _add_uses(verbs)
    _add_experiments(verbs)
    return parser


def _add_questions(verbs: Any) -> None:
    """Add the verbs that have arguments of their own."""
    parsers = {}
    for name, (description, epilog) in QUESTIONS.items():
        parsers[name] = verbs.add_parser(
            name,
            help=VERBS[name],
            description=description.strip(),
            epilog=epilog.strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_config_options(parsers[name])
        if name in ("status", "plan", "verify", "inspect", "adopt"):
            _add_trial(parsers[name])
    parsers["status"].add_argument("--json", action="store_true", help="the same as JSON, with keys, times and sizes")
    parsers["verify"].add_argument("--all", action="store_true", help="read the artifacts of all other configs as well")
    parsers["plan"].add_argument("stage", metavar="STAGE", help="the stage that would run")
    parsers["plan"].add_argument("--json", action="store_true", help="the same as JSON, with keys")
    parsers["plan"].add_argument("--force", action="store_true", help="as if this stage were run with --force")
    parsers["diff"].add_argument("keys", nargs=2, metavar="KEY", help="hex digits, as in the names of folders")
    parsers["adopt"].add_argument("stages", nargs="+", metavar="STAGE", help="whose artifact to accept")
    add = parsers["gc"].add_argument
    add("--keep", type=int, default=1, metavar="N", help="others to keep of each stage, newest first (default: 1)")
    add("--dry-run", action="store_true", help="show what would go, and remove nothing")
    add("--yes", action="store_true", help="do not ask")
    add = parsers["check-data"].add_argument
    add("--out", type=Path, metavar="FILE", help="the PNG to write (default: artifacts/DATASET/check-data/sheet.png)")
    add("--limit", type=_positive, metavar="N", help="most images of each split, evenly spread (default: all)")
    add = parsers["inspect"].add_argument
    add("kind", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}")
    add("--image", metavar="ID", help="which image; without it, the gallery of all pseudo masks")
    add("--out", type=Path, metavar="FILE", help="the PNG or HTML to write (default: artifacts/DATASET/inspect/)")
    add(
        "--limit",
        type=_positive,
        default=1000,
        metavar="N",
        help="most images in the gallery or behind the quality (default: 1000)",
    )


def _add_uses(verbs: Any) -> None:
    """Add the verbs that put a trained run to use."""
    texts = {"predict": (PREDICT_HELP, PREDICT_EPILOG), "export": (EXPORT_HELP, EXPORT_EPILOG)}
    for name, does in USES.items():
        description, epilog = texts[name]
        verb = verbs.add_parser(
            name,
            help=does,
            description=description.strip(),
            epilog=epilog.strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_config_options(verb)
        _add_trial(verb)
        if name == "export":
            verb.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")
            continue
        add = verb.add_argument
        add("--image", type=Path, required=True, metavar="PATH", help="an image, or a folder of images")
        add("--classes", required=True, metavar="NAMES", help="names with commas between, or a .txt file, one a line")
        add("--out", type=Path, required=True, metavar="DIR", help="folder of the results; made if needed")
        add("--decoder", type=Path, metavar="FILE", help="an exported decoder, instead of the run of the config")
        add("--quiet", action="store_true", help="show no progress")


def _add_experiments(verbs: Any) -> None:
    """Add the verbs that run sets of configs."""
    texts = {"ablate": (ABLATE_HELP, ABLATE_EPILOG), "tune": (TUNE_HELP, TUNE_EPILOG)}
    for name, does in EXPERIMENTS.items():
        description, epilog = texts[name]
        verb = verbs.add_parser(
            name,
            help=does,
            description=description.strip(),
            epilog=epilog.strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_config_options(verb, "YAML files, each a variant: laid over the data set's config, named by the file")
        add = verb.add_argument
        add(
            "--base",
            action="extend",
            nargs="+",
            type=Path,
            default=[],
            metavar="FILE",
            help="YAML files laid under every variant and the default, e.g. a choice.yaml",
        )
        add("--jobs", type=_positive, default=1, metavar="N", help="evaluations at the same time (default: 1)")
        add("--name", metavar="WORD", help="folder of the results under artifacts/DATASET/, so that sets do not mix")
        add("--out", type=Path, metavar="DIR", help="write the results here instead")
        if name == "ablate":
            add("--seeds", type=_positive, default=5, metavar="N", help="seeds of training, 0 to N-1 (default: 5)")
            add("--gammas", type=Path, metavar="FILE", help="gammas that tune --gamma-only chose (default: its last)")
            continue
        add("--seeds", type=_positive, default=1, metavar="N", help="seeds a fold, 0 to N-1 (default: 1)")
        add("--folds", type=int, metavar="N", help="folds of the seen classes (default: data.folds)")
        what = verb.add_mutually_exclusive_group(required=True)
        what.add_argument("--grid", type=Path, metavar="FILE", help="YAML of keys and the values to try")
        what.add_argument("--gamma-only", action="store_true", help="choose gamma alone, for every variant")


def _add_trial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        type=_ids,
        metavar="ID,...",
        help="a quick trial on these training and validation images alone, kept apart in the cache",
    )


def _ids(text: str) -> list[str]:
    ids = [image_id.strip() for image_id in text.split(",")]
    if not all(ids):
        raise argparse.ArgumentTypeError("expected ids with commas between them, e.g. 2007_000032,2007_000039")
    return ids


def _folder(text: str) -> str:
    if not text.strip():  # an unset variable of a shell; it would mean the working folder
        raise argparse.ArgumentTypeError("is empty; expected a folder")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _experiment(options: argparse.Namespace, arguments: list[str]) -> int:
    """Run `ablate` or `tune`."""
    from split_matching.pipeline.experiments.runs import Request

    ablates = options.verb == "ablate"
    usual = "main" if ablates else "gamma" if options.gamma_only else options.grid.stem
    request = Request(
        dataset=options.dataset,
        base=tuple(options.base),
        variants=tuple(options.set_file),
        overrides=(*options.set, *_runtime_overrides(options)),
        seeds=options.seeds,
        name=options.name or usual,
        out=options.out,
        command=f"python run_pipeline.py {shlex.join(arguments)}",
        jobs=options.jobs,
        debug=options.debug,
    )
    if ablates:
        from split_matching.pipeline.verbs.ablate import ablate

        return ablate(request, options.gammas)
    from split_matching.pipeline.verbs.tune import tune, tune_gamma

    return tune_gamma(request, options.folds) if options.gamma_only else tune(request, options.grid, options.folds)


def _add_config_options(parser: argparse.ArgumentParser, files: str = "a YAML file laid over the data set's") -> None:
    add = parser.add_argument_group("config and cache").add_argument
    parser.set_defaults(images=None, download=False)
    add(
        "--dataset",
        default="shapes",
        metavar="NAME",
        help="configs/NAME.yaml, or a YAML file of yours (default: shapes)",
    )
    add(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change a config value, e.g. train.steps=500; `config` lists them",
    )
    add(
        "--set-file",
        action="extend",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help=files,
    )
    add("--workers", type=int, metavar="N", help="processes that work at the same time (runtime.workers)")
    add("--scheduler", metavar="HOST:PORT", help="a luigid to share the work with other machines (runtime.scheduler)")
    add("--artifacts", type=_folder, metavar="DIR", help="folder of the cache (runtime.artifacts)")
    add("--device", choices=("auto", "cpu", "cuda"), help="where CLIP and the decoder run (runtime.device)")
    add("--debug", action="store_true", help="print tracebacks, and luigi's log")


def _runtime_overrides(options: argparse.Namespace) -> list[str]:
    """Return the options that are short forms of config values, as overrides. JSON is YAML, so any path survives."""
    names = ("workers", "scheduler", "artifacts", "device")
    given = {name: getattr(options, name) for name in names}
    overrides = [f"runtime.{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
    return overrides if options.images is None else [*overrides, f"data.images={json.dumps(options.images)}"]
