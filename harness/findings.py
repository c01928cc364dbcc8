"""What a sweep says: a sentence for each question, made from the numbers, with the runs that it rests on.

To add one: a function of the evidence, and an entry in ``FINDINGS``. The first sentence of a question is its answer,
in the verdict; the others stand in the report only. A sentence that the replicates do not bear says so, and how many would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness.choice_findings import find_choices
from harness.code_findings import find_interpolation, find_redundancy
from harness.crossing_findings import find_crossings
from harness.evidence import Claim, Evidence, gather_evidence
from harness.label_findings import find_labels, find_modes
from harness.loss_findings import find_architecture, find_dimensions, find_floors
from harness.path_findings import find_paths
from harness.penalty_findings import find_penalties
from harness.pictures import ReadFile
from harness.prefix_findings import find_prefixes
from harness.search_findings import find_winners
from harness.stability_findings import agreements, find_stability
from harness.tables import Summary


def find_in(summary: Summary, read_file: ReadFile) -> list[Claim]:
    """All that can be said of a sweep; nothing where no trial has finished."""
    evidence = read_evidence(summary, read_file)
    return find(evidence) if evidence else []


def read_evidence(summary: Summary, read_file: ReadFile) -> Evidence | None:
    """Makes a sweep ready, with what has to be read from the files of its trials; nothing where no trial has finished."""
    evidence = gather_evidence(summary)
    return evidence and replace(evidence, agreements=agreements(evidence, read_file))


def find(evidence: Evidence) -> list[Claim]:
    """All that can be said of a sweep, question by question."""
    return [claim for finding in FINDINGS.values() for claim in finding.claims(evidence)]


def verdict(claims: Sequence[Claim]) -> list[Claim]:
    """The answer to each question: its first sentence."""
    answers: dict[str, Claim] = {}
    for claim in claims:
        answers.setdefault(claim.topic, claim)
    return list(answers.values())


@dataclass(frozen=True)
class Finding:
    """A question and what answers it.

    Attributes:
        question: For people.
        claims: From the evidence to its sentences, the answer first; empty where the sweep has nothing to say to it.
    """

    question: str
    claims: Callable[[Evidence], list[Claim]]


FINDINGS: dict[str, Finding] = {
    "winners": Finding("Were the winners of the search lucky?", find_winners),
    "crossings": Finding("From how many labels on does which way win?", find_crossings),
    "choices": Finding("Do the usual choices matter?", find_choices),
    "penalty": Finding("What does decorrelation cost, and does it help?", find_penalties),
    "paths": Finding("Where do paths between codes go?", find_paths),
    "prefixes": Finding("Can one training replace one for each size?", find_prefixes),
    "stability": Finding("Do different seeds find the same latents?", find_stability),
    "dimensions": Finding("How many latent dimensions are needed?", find_dimensions),
    "architecture": Finding("Which architecture?", find_architecture),
    "floors": Finding("Is it better than no learning at all?", find_floors),
    "interpolation": Finding("Do more latents give better interpolations?", find_interpolation),
    "redundancy": Finding("Are the latents redundant?", find_redundancy),
    "labels": Finding("Are they of use with a handful of labels?", find_labels),
    "modes": Finding("Should the encoder be trained along?", find_modes),
}
"""In the order of the verdict: what a single study asks, which others have nothing to say to, comes first."""
