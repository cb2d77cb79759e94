/* What was asked and with which settings, from the run's own trace: nothing of it is taken from the knobs. Runs in node. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { parted, systemOf } = Playground;
  const DRAFTERS = {
    draft: "its draft",
    lookup: "lookup in the text, no draft model",
    "draft+lookup": "its draft or lookup, by the round",
  };
  const ARM_NAMES = { both: "both arms", target: "the target alone", speculative: "the speculative arm alone" };

  const number = (value) => value.toLocaleString("en");

  /** {prompt, turn: the how manyth of its conversation, earlier: the turns before it, settings: what decides the result,
   * models: whose it is}, in words. chosen: what k = auto chose. */
  const runFacts = (started, chosen = "") => {
    const { request, target, draft, backend, device, prompt_tokens: tokens } = started;
    const { prompt, messages } = parted(request);
    const system = systemOf(request);
    const { temperature, top_p: topP, top_k: topK, seed } = request.sampling;
    const warp = temperature
      ? [`temperature ${temperature}`, topP < 1 && `top_p ${topP}`, topK > 0 && `top_k ${topK}`, `seed ${seed}`]
      : ["temperature 0"];
    const settings = [
      started.engine === "upstream" && "upstream's own loop, a reference",
      chosen ? `k = ${request.k} (${chosen})` : `k = ${request.k}`,
      ...warp,
      `acceptor ${request.acceptor}`,
      `drafter: ${DRAFTERS[request.drafter] ?? request.drafter}`,
      `at most ${number(request.max_tokens)} tokens`,
      ARM_NAMES[request.arms],
      !request.chat_template && "no chat template",
      system && `system prompt "${system}"`,
    ];
    const with_ = draft && request.drafter !== "lookup"
      ? ` with ${draft.name}${draft.dtype === target.dtype ? "" : ` (${draft.dtype})`}`
      : "";
    return {
      prompt,
      turn: 1 + messages.filter(({ role }) => role === "assistant").length,
      earlier: messages.map(({ role, content }) => `${role}: ${content}`).join("\n\n"),
      settings: settings.filter(Boolean).join(", "),
      models: `${target.name}, ${target.dtype}${with_}, on ${backend}, ${device}; ${number(tokens)} prompt tokens`,
    };
  };

  Object.assign(Playground, { runFacts });
  if (typeof module !== "undefined") module.exports = Playground;
})();
