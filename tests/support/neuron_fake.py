"""A fake `transformers_neuronx` that honours its contract strictly: the device is absent here, the rules are not.

What it is strict about: call order (windows enabled before `to_neuron`, nothing called before it), argument shapes and
dtypes, compiled windows only, one prefill from position 0, the cores named in the environment before the import and
never overlapping in part, artefacts that fit, weights that are there. Where the real library misbehaves (a bare
StopIteration, a KeyError, a window silently cut), so does this.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.neuron_device import DeviceModel, Runtime, put_in_place, read_weights

DTYPES = ("f32", "f16", "bf16")


class NeuronModelBase(DeviceModel):
    runtime: Runtime

    @classmethod
    def from_pretrained(cls, pretrained_model_path: str, **kwargs: Any) -> NeuronModelBase:
        config = json.loads((Path(pretrained_model_path) / "config.json").read_text())
        return cls(config, Path(pretrained_model_path), **kwargs)

    def __init__(
        self,
        config: dict[str, Any],
        directory: Path,
        *,
        n_positions: int | list[int] = 2048,
        batch_size: int = 1,
        amp: str = "f32",
        tp_degree: int = 2,
        context_length_estimate: int | list[int] | None = None,
        neuron_config: Any = None,
    ) -> None:
        assert batch_size == 1, "the contract is for batch 1"
        assert amp in DTYPES, amp
        assert neuron_config is None, "on_device_generation and continuous batching stay off"
        super().__init__(config, max(n_positions) if isinstance(n_positions, list) else n_positions)
        self.directory, self.name = directory, directory.name
        if context_length_estimate is None:
            context_length_estimate = self.n_positions // 2
        self.context = (
            max(context_length_estimate) if isinstance(context_length_estimate, list) else context_length_estimate
        )
        assert self.n_positions >= self.context
        self.tp_degree, self.amp = tp_degree, amp
        self.windows: list[int] = []
        self.ready = False
        self.artifacts: str | None = None

    # --- loading ---

    def enable_speculative_decoder(self, speculation_length: int | list[int]) -> None:
        assert not self.ready, "windows are enabled before to_neuron"
        lengths = [speculation_length] if isinstance(speculation_length, int) else speculation_length
        assert lengths == sorted(lengths), "an unsorted list is searched wrongly by upstream's bisection"
        self.windows = list(lengths)

    def load(self, directory: str) -> None:
        self.artifacts = directory

    def save(self, directory: str) -> None:
        assert self.ready, "cannot save a model which has not been successfully compiled"
        if os.path.isfile(directory):
            raise FileExistsError("Artifacts should be saved to a directory.")
        os.makedirs(directory, exist_ok=True)
        for program in self._programs():
            Path(directory, program).write_bytes(b"neff")

    def to_neuron(self) -> None:
        assert not self.ready
        self.runtime.initialise(self.tp_degree)
        read_weights(self.directory)
        if self.artifacts is None:
            self.runtime.programs_compiled += len(self._programs())
        else:
            if not os.path.isdir(self.artifacts):
                raise FileNotFoundError(f"Did not find directory: {self.artifacts}.")
            if not all(Path(self.artifacts, program).exists() for program in self._programs()):
                raise FileNotFoundError("Could not find a matching NEFF for your HLO in this directory.")
        self.runtime.loads.append(self.name)
        self.ready = True

    def _programs(self) -> list[str]:
        shape = (self.vocab_size, self.n_positions, self.amp, self.tp_degree)
        kinds = ["token", f"context{self.context}", *(f"speculation{k}" for k in self.windows)]
        return [hashlib.sha256(repr((shape, kind)).encode()).hexdigest()[:20] + ".neff" for kind in kinds]

    # --- the two primitives ---

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.forward(*args, **kwargs)

    def forward(
        self, input_ids: torch.Tensor, cache_ids: torch.Tensor | None = None, start_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        self._check(input_ids)
        count = input_ids.shape[1]
        if cache_ids is None:
            cache_ids = torch.arange(count, dtype=torch.int32)
        self._check_cache_ids(cache_ids, count)
        first = int(cache_ids[0])
        if count > 1 and first > 0:
            raise ValueError(f"context_length ({count}) shouldn't be smaller than estimate ({self.context})")
        tokens = input_ids[0].tolist()
        if count > 1:
            assert cache_ids.tolist() == list(range(count))
            if count > self.n_positions:
                raise StopIteration
            head = tokens[: self.context]
            # Right padding: id 0 is written into the slots up to the bucket's end.
            self.write([*head, *[0] * (self.context - len(head))], 0)
            self.calls.append(("prefill", 0, count))
            for position in range(self.context, count):  # what the bucket does not hold is decoded one by one
                self.write([tokens[position]], position)
            return self._row("context", count - 1)
        if first >= self.n_positions:
            raise StopIteration
        self.write(tokens, first)
        self.calls.append(("step", first, 1))
        return self._row("token", first)

    def _row(self, program: str, position: int) -> torch.Tensor:
        return self.answer(program, self._rows([position]))

    def _rows(self, positions: Sequence[int]) -> list[Any]:
        """Each row from every slot up to its position."""
        return [self.row(self.slots[: position + 1].tolist()) for position in positions]

    def speculative_forward(
        self,
        input_ids: torch.Tensor,
        cache_ids: torch.Tensor | None = None,
        start_ids: torch.Tensor | None = None,
        speculation_length: int | None = None,
    ) -> torch.Tensor:
        self._check(input_ids)
        count = input_ids.shape[1]
        if cache_ids is None:
            cache_ids = torch.arange(count, dtype=torch.int32)
        self._check_cache_ids(cache_ids, count)
        if speculation_length is None:
            raise TypeError("bad operand type for unary -: 'NoneType'")
        if not self.windows:
            raise KeyError((None, 1))
        window = next((k for k in self.windows if k >= count), self.windows[-1])
        if count < window:
            raise AssertionError(f"1th input shape mismatch. Expected {window}, but got {count}")
        positions = cache_ids[:window].tolist()  # a longer input is silently cut
        if max(positions) >= self.n_positions:
            raise StopIteration
        for token, position in zip(input_ids[0].tolist(), positions, strict=False):
            self.write([token], position)
        self.calls.append(("window", positions[0], window))
        return self.answer(f"speculation{window}", self._rows(positions)).unsqueeze(-1)

    # --- strictness ---

    def _check(self, input_ids: torch.Tensor) -> None:
        if not self.ready:
            raise AttributeError("'NoneType' object has no attribute 'find_bucket_id'")
        assert isinstance(input_ids, torch.Tensor)
        assert input_ids.dim() == 2, input_ids.shape
        assert input_ids.shape[0] == 1, input_ids.shape
        assert input_ids.dtype in (torch.int32, torch.int64), input_ids.dtype
        if int(input_ids.min()) < 0 or int(input_ids.max()) >= self.vocab_size:
            raise IndexError("index out of range in self")

    @staticmethod
    def _check_cache_ids(cache_ids: torch.Tensor, count: int) -> None:
        assert isinstance(cache_ids, torch.Tensor)
        assert cache_ids.shape == (count,), cache_ids.shape
        assert cache_ids.dtype in (torch.int32, torch.int64), cache_ids.dtype


class LlamaForSampling(NeuronModelBase):
    pass


class NeuronAutoModelForCausalLM:
    @classmethod
    def from_pretrained(cls, pretrained_model_path: str, **kwargs: Any) -> NeuronModelBase:
        config = json.loads((Path(pretrained_model_path) / "config.json").read_text())
        if config["model_type"] == "llama":
            return LlamaForSampling.from_pretrained(pretrained_model_path, **kwargs)
        if config["model_type"] != "mistral":
            raise AssertionError(f"The configuration model type '{config['model_type']}' is not supported by Neuron")
        return MistralForSampling.from_pretrained(pretrained_model_path, **kwargs)


class MistralForSampling(NeuronModelBase):
    """No window can be scored with it: the real one lacks the method."""

    @property
    def speculative_forward(self) -> Any:
        raise AttributeError("speculative_forward")


# --- upstream's loop and acceptor, with the flaws the contract lists ---


class TokenAcceptor:
    def __call__(
        self, draft_ids: torch.Tensor, draft_scores: torch.Tensor, target_scores: torch.Tensor
    ) -> torch.Tensor:
        raise NotImplementedError


class DefaultTokenAcceptor(TokenAcceptor):
    """min(1, p/q) on plain softmax; int64 [1, k], zero-padded, no count."""

    def __call__(
        self, draft_ids: torch.Tensor, draft_scores: torch.Tensor, target_scores: torch.Tensor
    ) -> torch.Tensor:
        _, drafted, vocab = draft_scores.shape
        assert draft_ids.shape == (1, drafted)
        assert draft_ids.dtype == torch.int64
        assert target_scores.shape == (1, drafted + 1, vocab)
        q, p = torch.softmax(draft_scores[0], -1), torch.softmax(target_scores[0], -1)
        row = torch.zeros(1, drafted + 1, dtype=torch.int64)
        for i, token in enumerate(draft_ids[0].tolist()):
            if torch.rand(()) >= p[i, token] / q[i, token]:
                row[0, i] = torch.multinomial((p[i] - q[i]).clamp(min=0), 1)[0]
                return row
            row[0, i] = token
        row[0, drafted] = torch.multinomial(p[drafted], 1)[0]
        return row


class SpeculativeGenerator:
    def __init__(self, draft: Any, target: Any, k: int = 4, acceptor: Any = None) -> None:
        assert isinstance(draft, NeuronModelBase), "anything else is taken for a draft provider"
        self.draft, self.target, self.k = draft, target, k
        self.acceptor = acceptor or DefaultTokenAcceptor()

    def sample(
        self,
        input_ids: torch.Tensor,
        sequence_length: int,
        start_ids: torch.Tensor | None = None,
        eos_token_id: Any = None,
        pad_token_id: int = 0,
        attention_mask: torch.Tensor | None = None,
        streamer: Any = None,
        output_logits: bool = False,
    ) -> torch.Tensor:
        assert attention_mask is None
        assert not output_logits
        context = input_ids.shape[1]
        self.draft(input_ids, None, start_ids)
        token = self.target(input_ids, None, start_ids).argmax(1, keepdim=True)  # always greedy
        if streamer:
            streamer.put(input_ids)
            streamer.put(token)
        done = torch.full((1, 1), False)
        tokens = torch.full((1, sequence_length + self.k + 1), pad_token_id, dtype=torch.int64)
        tokens[:, : context + 1] = torch.cat([input_ids, token], 1)
        cached, end = context, context + 1
        while True:
            if eos_token_id is not None:
                done |= token == torch.tensor(eos_token_id)  # a list of stop ids: a raw shape error
            if done.all():
                break
            drafts, scores, feed = [], [], token
            for i in range(self.k - 1):
                scores.append(self.draft(feed, torch.tensor([cached + i], dtype=torch.int32), start_ids).clone())
                feed = scores[-1].argmax(1, keepdim=True)  # argmax, though q is a softmax
                drafts.append(feed)
            draft_ids = torch.cat(drafts, 1)  # k = 1: nothing to concatenate
            window = torch.cat([token, draft_ids], 1)
            target_scores = self.target.speculative_forward(
                input_ids=window,
                cache_ids=torch.arange(cached, cached + self.k),
                start_ids=start_ids,
                speculation_length=self.k,
            )
            row = self.acceptor(draft_ids, torch.stack(scores).transpose(0, 1), target_scores.permute(2, 0, 1))
            count = int(torch.count_nonzero(row))  # a token 0 is not counted
            if eos_token_id is not None:
                ended = (row == eos_token_id).cumsum(1).bool()
                row[ended] = eos_token_id
                done |= ended.any()
            tokens[:, end : end + self.k] = row
            cached, end = cached + count, end + count
            token = row[:, count - 1 : count] if count else row[:, -1:]
            if streamer:
                streamer.put(row)
            if count == self.k:
                self.draft(row[:, -2:-1], torch.tensor([cached - 1], dtype=torch.int32), start_ids)
            cached, end = min(cached, sequence_length), min(end, sequence_length)
            done |= cached == sequence_length
        if streamer:
            streamer.end()
        return tokens[:, :sequence_length]


# --- putting it where the real one would be ---


def install(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Make `import transformers_neuronx` find the fake; the runtime that its models share is returned."""
    runtime = Runtime()
    monkeypatch.setattr(NeuronModelBase, "runtime", runtime, raising=False)
    put_in_place(
        monkeypatch,
        {
            "transformers_neuronx": {
                "LlamaForSampling": LlamaForSampling,
                "NeuronAutoModelForCausalLM": NeuronAutoModelForCausalLM,
            },
            "transformers_neuronx.speculation": {
                "SpeculativeGenerator": SpeculativeGenerator,
                "TokenAcceptor": TokenAcceptor,
                "DefaultTokenAcceptor": DefaultTokenAcceptor,
            },
            "torch_neuronx": {},
        },
    )
    return runtime
