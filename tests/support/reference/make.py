"""Makes `smollm2.json`: what transformers computes in float32 from the embedded GGUF. Run once, by hand.

    pip install torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate
    python tests/reference/make.py models/SmolLM2-135M-Instruct.Q4_1.gguf

It holds, for eight prompts in the chat template: the prompt's ids, the greedy continuation, and the logits of every
97th id after the prompt.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "Explain what a transformer language model is, in three sentences.",
    "Translate to French: The weather is nice today, let us go for a walk in the park.",
    "What is 17 + 26? Show your steps.",
    "Write a short poem about the sea.",
    "List five fruits and their colours.",
    "Who wrote Romeo and Juliet, and when?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Summarise in one sentence: Bees collect nectar, which they turn into honey; on their way they pollinate plants, "
    "without which many fruits would not grow.",
]
NEW_TOKENS, STRIDE = 48, 97


def main(gguf: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    cases = []
    for prompt in PROMPTS:
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
            greedy = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False,
                eos_token_id=2, pad_token_id=2, repetition_penalty=1.0,
            )  # fmt: skip
        cases.append(
            {
                "prompt": prompt,
                "prompt_ids": ids[0].tolist(),
                "greedy_ids": greedy[0, ids.shape[1] :].tolist(),
                "logits": [round(value, 4) for value in logits[::STRIDE].tolist()],
            }
        )
    (Path(__file__).parent / "smollm2.json").write_text(json.dumps({"stride": STRIDE, "cases": cases}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
