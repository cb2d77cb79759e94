/* Everything there is to know of one token, in words and figures. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { bar, format, h } = Playground;

  const AUTO = "auto"; // of a request that leaves the window of each round to the loop
  /** Whether the warp leaves a model's distribution as it is, so that one figure says both. */
  const unwarped = (run) => {
    const { temperature, top_p: topP, top_k: topK } = run.started?.request.sampling ?? {};
    return temperature === 1 && topP === 1 && topK === 0;
  };

  /** Likeliest first, before and after what `heads` names; the token itself follows where it is not among them. */
  const alternatives = (
    run,
    title,
    list,
    chosen,
    side,
    probability,
    heads = unwarped(run) ? [] : ["model", "warped"],
  ) => {
    const known = probability === undefined || list.some((other) => other.id === chosen);
    const shown = known ? list : [...list, { id: chosen, model_prob: null, warped_prob: probability }];
    const row = (other) => {
      const gauge = bar(other.warped_prob, side);
      if (heads.length) gauge.style.setProperty("--before", `${100 * (other.model_prob ?? 0)}%`);
      const before = heads.length ? h("span", { class: "before" }, format.chance(other.model_prob)) : null;
      return h(
        "div",
        { class: other.id === chosen ? "alt chosen" : "alt" },
        h("code", {}, run.label(other.id)),
        gauge,
        before,
        h("b", {}, format.chance(other.warped_prob)),
      );
    };
    const head = heads.length
      ? h("div", { class: "alt alt-head" }, h("h3", {}, title), ...heads.map((each) => h("span", {}, each)))
      : h("h3", {}, title);
    return h("div", { class: `alts alts-${side}${heads.length ? " both" : ""}` }, head, ...shown.map(row));
  };

  const coin = (run, drafted) => {
    const kept = drafted.state === "accepted";
    const gauge = h("div", {
      class: "coin",
      role: "img",
      "aria-label": `coin ${format.chance(drafted.u)} against ${format.chance(drafted.threshold)}`,
    });
    const zone = h("i", { class: "coin-zone" });
    zone.style.width = `${Math.min(1, drafted.threshold) * 100}%`;
    const mark = h("i", { class: "coin-mark" });
    mark.style.left = `${drafted.u * 100}%`;
    gauge.append(zone, mark);
    const margin = Math.abs(drafted.threshold - drafted.u);
    const below = drafted.u < drafted.threshold;
    const outcome = below === kept
      ? (kept ? `kept, with ${format.chance(margin)} to spare` : `refused, by ${format.chance(margin)}`)
      : kept
      ? "kept, by a later coin of the block"
      : "refused, by the block as a whole";
    return h(
      "div",
      { class: "coin-row" },
      h(
        "p",
        {},
        "coin ",
        h("b", {}, `u = ${format.chance(drafted.u)}`),
        below ? " < " : " ≥ ",
        h("b", {}, format.chance(drafted.threshold)),
        ` = ${thresholdName(run)}: ${outcome}`,
      ),
      gauge,
    );
  };

  /** What the acceptor went by besides a coin, where the trace tells. */
  const grounds = (run, drafted) => {
    const known = drafted.grounds;
    if (!known) return null;
    const number = (value) => (value === null ? "−∞" : value.toFixed(3));
    const said = [];
    if (known.bar !== null) {
      said.push(`typical: entropy ${number(known.entropy)} nats, so p has to be above ${format.chance(known.bar)}`);
    }
    if (known.prefix_ratio !== null) said.push(`block: the running ratio up to here is ${number(known.prefix_ratio)}`);
    if (known.own_id !== null) said.push(`the target's own draw: ${run.label(known.own_id)}`);
    if (known.own_u !== null) said.push(`drawn at u = ${format.chance(known.own_u)}`);
    if (known.own_sum !== null) {
      said.push(`log p + noise: ${number(known.own_sum)} for its own, ${number(known.draft_sum)} for the draft`);
    }
    return h("p", { class: "card-note", "data-figure": "grounds" }, `${said.join("; ")}.`);
  };

  /** The draft that a correction replaced. */
  const refusal = (run, token) => {
    const drafted = token.kind === "corrected" ? token.round.drafted[token.place] : null;
    if (!drafted) return null;
    const words = ` was refused: p ${format.chance(drafted.p)}, q ${format.chance(drafted.q)}.`;
    return h("p", { class: "card-note", "data-figure": "refused" }, h("code", {}, run.label(drafted.id)), words);
  };

  /** Its probability in both models before the warp, which is there for a token outside the likeliest as well. */
  const plain = (target, draft) => {
    if (target === null || target === undefined) return null;
    const ours = draft === null || draft === undefined ? "" : `, draft ${format.chance(draft)}`;
    return h(
      "p",
      { class: "card-note", "data-figure": "plain" },
      `Before the warp: target ${format.chance(target)}${ours}.`,
    );
  };

  const present = (...parts) => parts.filter((part) => part !== null);

  const thresholdName = (run) => {
    const acceptor = run.started?.request.acceptor;
    return { lenient: "min(1, 2p/q)", block: "the chance of the block up to here" }[acceptor] ?? "min(1, p/q)";
  };

  const sentence = (run, token) => {
    const { round } = token;
    const place = `Round ${round.index}`;
    if (round.index === 0) return `${place}: the prefill. The target made the first token.`;
    if (token.arm === "target") return `${place}: one pass of the target, one token.`;
    const window = round.drafted.length;
    const where = `${place}, place ${token.place + 1} of ${window + 1}.`;
    const proposed = round.source === "lookup"
      ? "It followed the same tokens earlier in the text, so it was proposed again,"
      : "The draft proposed it";
    const { drafter, k } = run.started?.request ?? {};
    const nothing = drafter === "lookup"
      ? "the text held nothing to look up"
      : round.k === 1 && k === AUTO
      ? "drafting did not look worth its time"
      : "the window no longer fitted";
    // with k = auto a window may end before its widest
    const ended = k === AUTO && round.source === "draft" && token.place === window - 1 && window + 1 < round.k
      && !token.special;
    const unsure = ended ? " The draft was not sure enough to go on: another pass of it was not worth its time." : "";
    return {
      accepted: `${where} ${proposed} and the acceptor kept it.${unsure}`,
      rejected: `${where} ${proposed}; the first to be refused.${unsure}`,
      discarded: `${where} Drafted after the refused one, so it was never judged.${unsure}`,
      corrected: `${where} The target's replacement for the refused draft.`,
      bonus: `${where} All ${window} drafts were kept, so the target added this one free.`,
      target: window ? `${where} The target's own token.` : `${place}: ${nothing}, so the target went alone.`,
    }[token.kind];
  };

  /** What there is to know of a token, as elements. */
  const cardContent = (run, token) => {
    const { drafted, final } = token;
    const text = run.label(token.id);
    const head = h(
      "header",
      {},
      h("code", { class: `card-token k-${token.kind}` }, text),
      h("span", { class: `chip k-${token.kind}` }, token.kind),
      h("span", { class: "card-id" }, `id ${token.id}${token.index === null ? "" : ` · token ${token.index + 1}`}`),
    );
    const content = [head, h("p", { class: "card-where" }, sentence(run, token))];
    if (drafted) {
      content.push(
        h(
          "div",
          { class: "pq" },
          h("span", {}, "p target"),
          bar(drafted.p, "target"),
          h("b", { "data-figure": "p" }, format.chance(drafted.p)),
          h("span", {}, "q draft"),
          bar(drafted.q, "draft"),
          h("b", { "data-figure": "q" }, format.chance(drafted.q)),
        ),
      );
      if (drafted.u !== null && drafted.threshold !== null) content.push(coin(run, drafted));
      else if (drafted.state !== "discarded") {
        content.push(h("p", { class: "card-note" }, "This acceptor flips no coin for it."));
      }
      content.push(
        ...present(grounds(run, drafted), plain(drafted.target_model_prob, drafted.draft_model_prob)),
        h(
          "div",
          { class: "alt-columns" },
          alternatives(run, "target's likeliest", drafted.target_alternatives, token.id, "target", drafted.p),
          alternatives(run, "draft's likeliest", drafted.draft_alternatives, token.id, "draft", drafted.q),
        ),
      );
    } else {
      content.push(
        h(
          "div",
          { class: "pq" },
          h("span", {}, "p target"),
          bar(final.p, "target"),
          h("b", { "data-figure": "p" }, format.chance(final.p)),
        ),
      );
      content.push(...present(refusal(run, token), plain(final.target_model_prob)));
      const columns = [alternatives(run, "target's likeliest", final.alternatives, token.id, "target", final.p)];
      if (final.residual.length) {
        columns.push(
          alternatives(run, "drawn from", final.residual, token.id, "residual", undefined, ["p", "residual"]),
        );
      }
      content.push(h("div", { class: "alt-columns" }, ...columns));
    }
    return content;
  };

  Object.assign(Playground, { cardContent });
})();
