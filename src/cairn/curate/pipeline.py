"""The pipeline: stages of record batches, Parquet between them.

    read + annotate   each file by itself               -> resume/read-N/part-M.parquet
    decide            licences, gates, duplicates, caps  -> resume/decided.parquet
    finish + write    decontaminate, scan, redact        -> files/, ledger/, report

Two shuffles exist, both in `decide`: by content id, and by band key. Which of several copies stays
is defined by a total order, so that neither the number of processes nor the driver can be seen in
the result.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow.parquet as pq

from cairn.base import UserError, Work, note, progress, write_json, write_text
from cairn.base.artifact import remove
from cairn.curate import decide as deciding
from cairn.curate import near
from cairn.curate.annotate import Annotation
from cairn.curate.corpus import FILES, LEDGER
from cairn.curate.decontamination.benchmarks import read_items
from cairn.curate.decontamination.search import digest_of_benchmarks
from cairn.curate.finish import Finishing
from cairn.curate.licences import is_known
from cairn.curate.licences.scancode import require_scancode
from cairn.curate.malware import Scanner
from cairn.curate.page import page
from cairn.curate.reading import STAGES, Reading, read_sources
from cairn.curate.recognition import require_model
from cairn.curate.rendering import Rendering
from cairn.curate.report import markdown, summarise
from cairn.curate.selection import parse_caps
from cairn.curate.writing import Group, grouped, write_group
from cairn.sources.origins import check
from cairn.sources.schemes import SCHEMES
from cairn.sources.spec import parse

if TYPE_CHECKING:
    from cairn.curate import Curate
    from cairn.curate.cluster import Cluster
    from cairn.curate.local import Local


def curate(recipe: "Curate", work: Work) -> dict[str, Any]:
    """Fill `work.out`; returns facts. Finished stages of an interrupted run are used again."""
    if recipe.licence_tool == "scancode":
        require_scancode()
    _check(recipe)
    malware = _malware(recipe)
    with recipe.open_driver(work.out) as driver:
        annotated = _read(recipe, work, driver)
        decided = _decide(recipe, work, annotated, driver)
        finishing = Finishing(recipe.redact, recipe.redact_model, recipe.benchmarks, malware)
        _agree(work, malware)
        groups = list(grouped([path for _, path in annotated], decided))
        _write(work, groups, finishing, driver)
    facts = summarise(work.out / "ledger")
    facts["malware"] = "scanned" if malware else "not scanned"
    if recipe.benchmarks is not None:
        facts["benchmarks_sha256"] = digest_of_benchmarks(Path(recipe.benchmarks).expanduser())
    if not facts["kept"]["files"]:
        rules = ", ".join(f"{row['rule']} {row['files']:,}" for row in facts["rules"])
        remove(work.out / STAGES)  # of no use to another recipe
        raise UserError("sources", ", ".join(recipe.sources), f"leave nothing ({rules})", "widen")
    write_json(work.out / "report.json", facts)
    write_text(work.out / "report.md", markdown(facts, recipe.sources))
    write_text(work.out / "report.html", page(facts, recipe.sources, work.out / "ledger"))
    return {key: facts[key] for key in ("seen", "kept", "licences", "malware")}


def _check(recipe: "Curate") -> None:
    """UserError for what can be told to be wrong before hours of reading, not after them."""
    for spec in recipe.sources:
        check(spec)
        licence = parse(spec, SCHEMES).options.get("licence")
        if licence is not None and not is_known(licence):
            mend = "write an SPDX identifier, CC-BY-4.0 say"
            raise UserError("source", spec, f"names no licence that is known: {licence}", mend)
    if recipe.near_duplicates and not near.is_compiled():
        note(f"near duplicates are sought slowly: {near.kernel_name()}")
    if recipe.redact_model is not None:
        require_model(Path(recipe.redact_model).expanduser())
    if recipe.benchmarks is not None:
        read_items(Path(recipe.benchmarks).expanduser(), None)


def _read(recipe: "Curate", work: Work, driver: "Local | Cluster") -> list[tuple[int, Path]]:
    wanted = Annotation(
        max_bytes=recipe.max_bytes,
        thresholds=recipe.thresholds,
        rendering=Rendering(recipe.limits, recipe.seed),
        licence_tool=recipe.licence_tool,
        near=recipe.near_duplicates,
        quality=recipe.quality,
    )
    metadata = _metadata(recipe, work)
    left = recipe.max_files
    annotated: list[tuple[int, Path]] = []
    readings = [
        Reading(number, spec, recipe.exclude, recipe.max_bytes, left, metadata)
        for number, spec in enumerate(recipe.sources)
    ]
    if left is None:
        annotated = read_sources(work, readings, wanted, driver.map, driver.whole_sources)
    for one in readings if left is not None else ():
        if left:
            some = Reading(one.number, one.spec, one.exclude, one.max_bytes, left, metadata)
            parts = read_sources(work, [some], wanted, driver.map, driver.whole_sources)
            left -= sum(pq.read_metadata(path).num_rows for _, path in parts)
            annotated += parts
    if not annotated:
        remove(work.out / STAGES)
        raise UserError("sources", ", ".join(recipe.sources), "hold no files", "give others")
    return annotated


def _metadata(recipe: "Curate", work: Work) -> Path | None:
    """What GH Archive tells of repositories, as a table; None where no events are given."""
    if not recipe.events:
        return None
    from cairn.sources.events import repository_metadata

    name = f"{STAGES}/repositories.parquet"
    if not work.has(name):
        with work.part(name) as path:
            found = repository_metadata(recipe.hours(), path)
        for hour in found.hours:
            if hour.complaint():
                note(f"events: {hour.path.name}: {hour.complaint()}")
    return work.out / name


def _decide(
    recipe: "Curate", work: Work, annotated: list[tuple[int, Path]], driver: "Local | Cluster"
) -> Path:
    name = f"{STAGES}/decided.parquet"
    if not work.has(name):
        wanted = deciding.Decision(
            classes=recipe.licenses,
            near=recipe.near_duplicates,
            near_similarity=recipe.near_similarity,
            repository_duplicates=recipe.repository_duplicates,
            opt_out=recipe.requests(),
            excluded_extensions=recipe.excluded_extensions,
            smol=recipe.selection == "smol",
            caps=parse_caps(recipe.caps),
        )
        with progress("deciding"), work.part(name) as path:
            try:
                deciding.decide(annotated, wanted, path, work.out / STAGES / "spill", driver)
            except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
                raise OSError(f"deciding stopped: {error}") from None  # a full disk, say
    return work.out / name


def _write(
    work: Work, groups: list[Group], finishing: Finishing, driver: "Local | Cluster"
) -> None:
    todo = [group for group in groups if not all(work.has(name) for name in group.names)]
    with progress("writing", unit="files") as bar:
        done = partial(write_group, out=work.out, wanted=finishing)
        for _, count in driver.map(done, todo):
            bar.advance(count)


def _agree(work: Work, malware: bool) -> None:
    """All parts are scanned for malware, or none: those of an interrupted run too."""
    name = f"{STAGES}/malware-{'scanned' if malware else 'not-scanned'}"
    if not work.has(name):
        for other in (work.out / STAGES).glob("malware-*"):
            remove(work.out / FILES)
            remove(work.out / LEDGER)
            remove(other)
        with work.part(name) as path:
            path.touch()


def _malware(recipe: "Curate") -> bool:
    """Whether files are scanned; said where they are not."""
    if recipe.malware == "off":
        return False
    found = Scanner.find() is not None
    if not found and recipe.malware == "require":
        mend = "install clamd or clamscan, and run freshclam"
        raise UserError("malware", "require", "finds no ClamAV with signatures", mend)
    if not found:
        note("not scanned for malware: ClamAV is not installed, or has no signatures")
    return found
