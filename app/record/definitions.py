"""What each word and figure means: one sentence each, shown wherever the word stands. Stdlib only."""

from __future__ import annotations

DEFINITIONS: dict[str, str] = {
    "window k": "Tokens the target scores in one pass: the last known token and k - 1 drafted ones.",
    "round": "Draft, verify, accept, once. A round emits between 1 and k tokens.",
    "accepted": "A drafted token the acceptor kept.",
    "corrected": "The target's replacement for the first rejected draft.",
    "bonus": "The target's extra token when all k - 1 drafts were kept.",
    "target": "A token the target made alone: the first one, every token of the target-only arm, and the tail where "
    "the window no longer fits.",
    "rejected": "The first draft of a round that was refused.",
    "discarded": "A draft after the rejected one; it was never judged.",
    "p": "Probability of the token in the target, after the warp.",
    "q": "Probability of the token in the draft, after the warp; the token was drawn from this distribution.",
    "u": "The coin, uniform between 0 and 1. Rejection sampling keeps a drafted token when u < min(1, p/q).",
    "residual": "norm(max(p - q, 0)): what a corrected token is drawn from, so that the text stays the target's.",
    "warp": "Temperature, then top_k, then top_p, then softmax, for both models alike; at temperature 0 all weight is "
    "on the likeliest token.",
    "lossless": "The emitted tokens are distributed exactly as the target alone would emit them.",
    "acceptance rate": "accepted / (accepted + rejected): the estimate of α, the chance that a judged draft is kept. "
    "Discarded drafts were never judged and do not count.",
    "draft acceptance rate": "accepted / drafted: the share of all drafts that was kept (the figure vLLM and llama.cpp "
    "report). Not α.",
    "mean acceptance length": "Tokens emitted per target pass: 1 + accepted / rounds. Counts corrected and bonus "
    "tokens; 1.00 for the target alone.",
    "passes": "Times the target went through its weights: once a round, the prefill with its first token "
    "counted as one.",
    "acceptance at position": "Of the rounds that drafted a token at this place, the share in which it was accepted.",
    "TTFT": "Time to first token: from the request to the first token, with the prefill of both models for the "
    "speculative arm.",
    "TPOT": "Time per output token: (end - first token) / (tokens - 1), in compute time of the arm.",
    "ITL": "Gap between streamed chunks. A round's tokens arrive at once, so this is not TPOT.",
    "tokens/s": "1 / TPOT: tokens a second after the first.",
    "speedup": "TPOT of the target alone / TPOT of the speculative arm: same pair, engine, precision, prompt, seed "
    "and run.",
    "first divergence": "The first token at which the two arms differ.",
    "total variation": "Distance between the distribution of the emitted tokens and the target's; 0 for a lossless "
    "acceptor.",
    "expected tokens": "(1 - α^k) / (1 - α): tokens a round emits if every draft is kept with chance α (Leviathan, "
    "Eq. 1).",
    "cost ratio c": "Time of one draft pass / time of the target's pass over one token.",
    "verify ratio v": "Time of the target's pass over k tokens / its pass over one; 1 where memory alone limits it.",
    "predicted speedup": "Expected tokens / (v + (k - 1) c) (Leviathan, Theorem 3.8, with v = 1).",
}
