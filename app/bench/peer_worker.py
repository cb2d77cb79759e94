"""One peer in a process and an environment of its own: a line of JSON in, a line of JSON out. Imports nothing of app.

    python peer_worker.py PEER '{"target": ..., "draft": ..., "threads": 2}'
    in:  {"ids": [...], "max_tokens": 64, "num_draft": 3}
    out: {"ids": [...], "ttft_s": ..., "tpot_s": ..., "memory": bytes}   or {"error": sentence}

Greedy always. TPOT is (end - first token) / (tokens - 1) by this process's clock. The first line out, once loaded, is
{"ready": version}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

Answer = tuple[list[int], float, float]
"""New ids, the clock at the first of them, the clock at the end."""


class Transformers:
    """Hugging Face transformers on PyTorch, bf16: its fastest precision on a processor that has it."""

    def __init__(self, files: dict[str, Any], speculative: bool) -> None:
        torch, transformers = _modules("torch", "transformers")
        torch.set_num_threads(files["threads"])
        transformers.logging.set_verbosity_error()
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self._torch = torch

        def load(path: str) -> Any:
            return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()

        self._model = load(files["target"])
        self._draft = load(files["draft"]) if speculative else None
        base = transformers.generation.streamers.BaseStreamer

        class First(base):  # type: ignore[misc,valid-type]
            def __init__(self) -> None:
                self.at: list[float] = []

            def put(self, value: object) -> None:
                self.at.append(time.perf_counter())

            def end(self) -> None:
                pass

        self._streamer = First

    def generate(self, ids: list[int], max_tokens: int, num_draft: int) -> Answer:
        torch = self._torch
        inputs = torch.tensor([ids])
        streamer = self._streamer()
        options: dict[str, Any] = {}
        if self._draft is not None:
            config = self._draft.generation_config
            config.num_assistant_tokens, config.num_assistant_tokens_schedule = num_draft, "constant"
            options["assistant_model"] = self._draft
        with torch.inference_mode():
            out = self._model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=max_tokens,
                do_sample=False,
                streamer=streamer,
                **options,
            )
        end = time.perf_counter()
        return out[0, len(ids) :].tolist(), streamer.at[1], end  # the first call hands in the prompt


class LlamaCpp:
    """llama.cpp by its Python package: the GGUF as shipped, and its draft_model interface over a second model."""

    def __init__(self, files: dict[str, Any], speculative: bool) -> None:
        llama_cpp, numpy, interface = _modules("llama_cpp", "numpy", "llama_cpp.llama_speculative")
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        shared = {"n_ctx": files["n_positions"], "n_threads": files["threads"], "verbose": False}
        shared["n_threads_batch"] = files["threads"]
        self._drafter: Any = None
        if speculative:
            second = llama_cpp.Llama(files["draft_gguf"], **shared)

            class Drafter(interface.LlamaDraftModel):  # type: ignore[misc,name-defined]
                num_draft = 2

                def __call__(self, input_ids: Any, /, **_: Any) -> Any:
                    drafts = []
                    for token in second.generate(input_ids.tolist(), temp=0.0):
                        drafts.append(token)
                        if len(drafts) == self.num_draft:
                            break
                    return numpy.array(drafts, dtype=numpy.intc)

            self._drafter = Drafter()
        self._model = llama_cpp.Llama(files["target_gguf"], draft_model=self._drafter, **shared)
        self._stops = set(files["stop_ids"])

    def generate(self, ids: list[int], max_tokens: int, num_draft: int) -> Answer:
        if self._drafter is not None:
            self._drafter.num_draft = num_draft
        tokens: list[int] = []
        first = 0.0
        self._model.reset()
        for token in self._model.generate(ids, temp=0.0):
            if not tokens:
                first = time.perf_counter()
            tokens.append(int(token))
            if token in self._stops or len(tokens) == max_tokens:
                break
        return tokens, first, time.perf_counter()


class OpenVinoGenai:
    """openvino-genai's own pipelines, from the GGUFs."""

    def __init__(self, files: dict[str, Any], speculative: bool) -> None:
        numpy, openvino, openvino_genai = _modules("numpy", "openvino", "openvino_genai")
        self.version = f"openvino-genai {openvino_genai.__version__.split('-')[0]}"
        self._genai, self._openvino, self._numpy = openvino_genai, openvino, numpy
        self._speculative = speculative
        options = {"draft_model": openvino_genai.draft_model(self._converted(files), "CPU")} if speculative else {}
        self._pipeline = openvino_genai.LLMPipeline(files["target_q8"], "CPU", **options)
        base = openvino_genai.StreamerBase

        class First(base):  # type: ignore[misc,valid-type]
            def __init__(self) -> None:
                base.__init__(self)
                self.at: list[float] = []

            def write(self, token: object) -> Any:
                self.at.append(time.perf_counter())
                return openvino_genai.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        self._streamer = First

    def _converted(self, files: dict[str, Any]) -> str:
        """The folder of the draft's GGUF, converted by the library's own reader: as a draft it takes no GGUF itself."""
        folder = os.path.dirname(str(files["draft_gguf"]))
        if not os.path.exists(os.path.join(folder, "openvino_model.xml")):
            self._genai.LLMPipeline(files["draft_gguf"], "CPU", enable_save_ov_model=True)
        return folder

    def generate(self, ids: list[int], max_tokens: int, num_draft: int) -> Answer:
        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.do_sample = max_tokens, False
        if self._speculative:
            config.num_assistant_tokens = num_draft
        streamer = self._streamer()
        inputs = self._openvino.Tensor(self._numpy.array([ids], dtype=self._numpy.int64))
        out = self._pipeline.generate(inputs, config, streamer)
        return list(out.tokens[0]), streamer.at[0], time.perf_counter()


PEERS: dict[str, Any] = {"transformers": Transformers, "llama.cpp": LlamaCpp, "openvino-genai": OpenVinoGenai}


def _modules(*names: str) -> list[Any]:
    """Whatever the peer needs: only its own environment has it."""
    return [importlib.import_module(name) for name in names]


def main() -> None:
    name, files = sys.argv[1], json.loads(sys.argv[2])
    kind, _, how = name.partition("+")
    peer = PEERS[kind](files, how == "draft")
    print(json.dumps({"ready": peer.version}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        begin = time.perf_counter()
        try:
            ids, first, end = peer.generate(asked["ids"], asked["max_tokens"], asked["num_draft"])
            tpot = (end - first) / (len(ids) - 1) if len(ids) > 1 else None
            answer: dict[str, Any] = {"ids": ids, "ttft_s": first - begin, "tpot_s": tpot, "memory": _memory()}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), flush=True)


def _memory() -> int:
    """Bytes this process holds; 0 where that is not known."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return 0


if __name__ == "__main__":
    main()
