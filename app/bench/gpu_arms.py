"""Both arms on a GPU, through the playground's own loop: their times, and whether they say the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from app.backends.torch.model import TorchModel
from app.bench import gpu_models
from app.bench.gpu_plan import Plan
from app.engine.acceptance import ACCEPTORS
from app.engine.decode import Limits, decode
from app.engine.drafting import ModelDrafter
from app.engine.windows import Fixed
from app.record.trace import Round, Sampling


def rounds(
    target: TorchModel,
    draft: TorchModel | None,
    prompt: Sequence[int],
    *,
    k: int,
    sampling: Sampling,
    tokens: int,
    acceptor: str = "rejection",
) -> Iterator[Round]:
    """The rounds of one arm through the playground's own loop."""
    sequence = target.new_sequence((k if draft else 1,))
    drafter = None
    if draft is not None:
        drafter = ModelDrafter(
            draft.new_sequence((1, 2)),
            name=draft.name,
            vocab_size=draft.vocab_size,
            sampling=sampling,
            stop_ids=frozenset(),
        )
    try:
        yield from decode(
            sequence,
            drafter,
            prompt,
            windows=Fixed(k),
            sampling=sampling,
            acceptor=ACCEPTORS[acceptor],
            limits=Limits(tokens, target.n_positions, frozenset()),
            target_name=target.name,
        )
    finally:
        sequence.close()
        if drafter is not None:
            drafter.close()


def said(round_: Round) -> list[int]:
    """The tokens a round emits."""
    kept = [each.id for each in round_.drafted if each.state == "accepted"]
    return kept if round_.final is None else [*kept, round_.final.id]


def arm(target: TorchModel, draft: TorchModel | None, plan: Plan, k: int, sampling: Sampling) -> dict[str, Any]:
    """An arm's figures over one answer; the first rounds, in which programs are recorded, are left out."""
    prompt = gpu_models.chain(plan.target.vocab_size, plan.context)
    everything = list(rounds(target, draft, prompt, k=k, sampling=sampling, tokens=plan.tokens))
    steady = everything[3:]
    seconds = sum(each.seconds for each in steady)
    tokens = sum(len(said(each)) for each in steady)
    drafted = sum(len(each.drafted) for each in steady)
    kept = sum(one.state == "accepted" for each in steady for one in each.drafted)
    return {
        "tpot_ms": 1e3 * seconds / tokens,
        "round_ms": 1e3 * seconds / len(steady),
        "tokens_a_round": tokens / len(steady),
        "kept": kept / drafted if drafted else None,
        "draft_ms": 1e3 * sum(each.draft_seconds for each in steady) / len(steady),
        "verify_ms": 1e3 * sum(each.verify_seconds for each in steady) / len(steady),
        "host_ms": 1e3 * sum(each.host_seconds for each in steady) / len(steady),
        "host_share": sum(each.host_seconds for each in steady) / seconds,
        "first_ms": 1e3 * everything[0].seconds,
    }


def same_text(target: TorchModel, draft: TorchModel, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
    """Greedy answers of both arms: tokens compared, and where the first pair parts."""
    compared, parted = 0, None
    for number, prompt in enumerate(prompts):
        alone, windowed = (
            [
                one
                for each in rounds(target, which, prompt, k=k, sampling=Sampling(), tokens=tokens)
                for one in said(each)
            ]
            for which, k in ((None, 1), (draft, (3, 5, 8)[number % 3]))
        )
        same = next((i for i, (a, b) in enumerate(zip(alone, windowed, strict=False)) if a != b), len(alone))
        compared += same
        if same < len(alone) and parted is None:
            parted = {"prompt": number, "token": same}
    return {"tokens": compared, "first_divergence": parted, "identical": parted is None}
