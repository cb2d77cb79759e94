/* The Rounds tab: every window as it was drafted, judged and paid for, and what a finished trace says of others. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { Minimap, bar, format, h, roundAt, term, whenDressed } = Playground;

  const SIGNS = { accepted: "✓", rejected: "✕", discarded: "·" };
  const PARTS = ["draft", "verify", "host"];

  /** A round as a row: the token known before it, the drafts with their verdicts, the target's own token, the time. */
  const row = (run, round, known, slowest) => {
    const box = (id, kind, sign, title) =>
      h(
        "span",
        { class: `box k-${kind}`, title },
        h("code", {}, run.label(id)),
        sign && h("i", { "aria-label": kind }, sign),
      );
    const start = known
      ? box(known.id, "known", null, "known before the round")
      : h("span", { class: "box k-known" }, "the prompt");
    const boxes = h("div", { class: "boxes" }, start);
    round.drafted.forEach((drafted) =>
      boxes.append(
        box(
          drafted.id,
          drafted.state,
          SIGNS[drafted.state],
          `${drafted.state}: p ${format.chance(drafted.p)}, q ${format.chance(drafted.q)}`,
        ),
      )
    );
    if (round.final) {
      boxes.append(
        h("span", { class: "then", "aria-hidden": "true" }, "→"),
        box(
          round.final.id,
          round.final.provenance,
          { corrected: "↻", bonus: "+", target: "" }[round.final.provenance],
          round.final.provenance,
        ),
      );
    }
    const total = round.draft_seconds + round.verify_seconds + round.host_seconds;
    const times = h("div", {
      class: "times",
      role: "img",
      "aria-label": PARTS.map((part) => `${part} ${format.span(round[`${part}_seconds`])}`).join(", "),
    });
    for (const part of PARTS) {
      const piece = h("i", { class: `time-${part}` });
      piece.style.flex = `0 0 ${(100 * round[`${part}_seconds`]) / slowest}%`;
      times.append(piece);
    }
    times.title = PARTS.map((part) => `${part} ${format.span(round[`${part}_seconds`])}`).join(" · ");
    return h(
      "li",
      { class: "round", "data-round": round.index, tabindex: "-1" },
      h("span", { class: "round-index" }, String(round.index)),
      boxes,
      h("span", { class: "round-count" }, `${round.tokens.length}`),
      times,
      h("span", { class: "round-time" }, format.span(total)),
    );
  };

  const barrenRound = ({ drafted }) => drafted.length > 0 && drafted.every(({ state }) => state !== "accepted");

  class Rounds {
    constructor(store, visible) {
      this.store = store;
      this.visible = visible;
      this.list = h("ol", {
        class: "round-list",
        "aria-label": "Rounds of the speculative arm",
        tabindex: "0",
        onclick: (event) => this.#pick(event),
        onkeydown: (event) => this.#arrow(event),
      });
      this.where = h("output", { class: "round-where" });
      this.slider = h("input", {
        type: "range",
        min: "0",
        max: "0",
        value: "0",
        "aria-label": "Round shown",
        oninput: () => this.#seek(Number(this.slider.value)),
      });
      const step = (label, name, direction) =>
        h("button", {
          type: "button",
          class: "tool",
          "aria-label": name,
          onclick: () => this.#seek(Number(this.slider.value) + direction),
        }, label);
      this.rule = h("select", { class: "tool", "aria-label": "Judge again by", onchange: () => this.#cut() });
      this.ruleText = h("span", { class: "rule-text" });
      this.tail = h("p", { class: "scrub-text", "aria-live": "polite" });
      this.map = new Minimap((index) => this.#seek(index));
      this.positions = h("div", { class: "bars" });
      this.kinds = h("div", { class: "bars" });
      this.windows = h("div", { class: "bars" });
      this.empty = h(
        "p",
        { class: "rounds-empty" },
        "Run a prompt, or open a trace, and every round of the speculative arm appears here.",
      );
      const panel = (title, name, note, content) =>
        h(
          "section",
          { class: "panel" },
          h("h2", {}, name ? term(title, name) : title),
          h("p", { class: "panel-note" }, note),
          content,
        );
      this.scrubber = h(
        "section",
        { class: "scrubber", "aria-label": "Step through the rounds" },
        step("‹", "Round before", -1),
        this.slider,
        step("›", "Next round", 1),
        this.where,
        this.tail,
        this.map.element,
      );
      this.panels = h(
        "div",
        { class: "panels" },
        panel(
          "Acceptance by position",
          "acceptance at position",
          "How often each place in the window was kept.",
          this.positions,
        ),
        panel("Acceptance by kind of token", "acceptance rate", "Kept, of the drafts that were judged.", this.kinds),
        panel(
          "Had the window been smaller",
          "mean acceptance length",
          "Tokens per pass, and the time per token estimated from this run.",
          this.windows,
        ),
      );
      const key = h(
        "p",
        { class: "time-key" },
        ...PARTS.map((part) => h("span", {}, h("i", { class: `time-${part}` }), part)),
      );
      this.nothing = h("input", { type: "checkbox", onchange: () => this.#filter() });
      this.nothingCount = h("span", {});
      const filter = h(
        "label",
        { class: "round-filter" },
        this.nothing,
        " only rounds with nothing kept ",
        this.nothingCount,
      );
      this.again = h("p", { class: "again" }, h("label", {}, "Judge this trace again by ", this.rule), this.ruleText);
      this.body = h(
        "div",
        { class: "rounds-body" },
        this.scrubber,
        this.panels,
        this.again,
        filter,
        h(
          "div",
          { class: "round-head" },
          h("span", {}, "round"),
          h("span", {}, "known token, drafts with their verdicts, the target's own"),
          h("span", { title: "tokens emitted" }, "gave"),
          key,
        ),
        this.list,
      );
      this.element = h("div", { class: "pg pg-rounds" }, this.empty, this.body);
      this.drawn = 0;
      this.store.on("run", () => this.#reset());
      this.store.on("items time state", () => this.#wake());
      // While its tab is hidden it draws nothing; it catches up when it is seen.
      new IntersectionObserver((entries) => {
        this.visible = entries.at(-1).isIntersecting;
        this.#wake();
      }).observe(this.element);
      new ResizeObserver(() => this.#wake()).observe(this.scrubber);
      whenDressed(() => this.#wake());
      this.#reset();
    }

    get arm() {
      return this.store.run.arms.speculative;
    }

    #reset() {
      this.drawn = 0;
      this.analysed = null;
      this.list.replaceChildren();
      for (const bars of [this.positions, this.kinds, this.windows]) bars.replaceChildren();
      this.#wake();
    }

    #wake() {
      const { rounds } = this.arm;
      this.body.hidden = rounds.length === 0;
      this.empty.hidden = rounds.length > 0;
      if (!this.visible || !rounds.length) return;
      this.#grow(rounds);
      this.#scrub(rounds);
      if (this.store.run.analysis && this.analysed !== this.store.run) this.#analyse();
    }

    #grow(rounds) {
      if (this.drawn < rounds.length) {
        // The prefill and a stalled round would dwarf the others; such bars are cut off.
        const times = rounds.map((round) => round.clock - round.since).sort((a, b) => a - b);
        const slowest = 1.25 * times[Math.floor((times.length - 1) * 0.9)];
        const fragment = document.createDocumentFragment();
        for (const round of rounds.slice(this.drawn)) {
          fragment.append(row(this.store.run, round, rounds[round.index - 1]?.tokens.at(-1), slowest));
        }
        this.list.append(fragment);
        this.drawn = rounds.length;
        this.#filter();
      }
      this.positions.replaceChildren(
        ...rounds.at(-1).figures.acceptance_by_position.map((share, place) =>
          h(
            "div",
            { class: "bar-row" },
            h("span", {}, `draft ${place + 1}`),
            bar(share, "accepted"),
            h("b", {}, format.percent(share)),
          )
        ),
      );
    }

    /** Rounds that drafted and kept none of it, alone or among the others. */
    #filter() {
      const barren = this.arm.rounds.filter(barrenRound).length;
      this.nothingCount.textContent = `(${barren} of ${
        this.arm.rounds.filter((round) => round.drafted.length).length
      })`;
      for (const [place, element] of [...this.list.children].entries()) {
        element.hidden = this.nothing.checked && !barrenRound(this.arm.rounds[place]);
      }
    }

    #scrub(rounds) {
      const shown = roundAt(this.arm, this.store.time) ?? rounds[0];
      this.slider.max = String(rounds.length - 1);
      this.slider.disabled = this.store.live;
      if (document.activeElement !== this.slider || Number(this.slider.value) !== shown.index) {
        this.slider.value = String(shown.index);
      }
      this.where.textContent = `round ${shown.index} of ${rounds.length - 1}`;
      const text = this.arm.tokens.slice(0, shown.figures.tokens).map((token) => (token.special ? "" : token.text))
        .join("");
      const fresh = shown.tokens.map((token) => (token.special ? "" : token.text)).join("");
      const before = text.slice(0, text.length - fresh.length);
      this.tail.replaceChildren(before.length > 160 ? `… ${before.slice(-160)}` : before, h("mark", {}, fresh));
      this.map.update(this.arm, shown);
      this.list.querySelector(".shown")?.classList.remove("shown");
      const element = this.list.children[shown.index];
      element?.classList.add("shown");
      if (element && !this.store.live && this.store.time !== Infinity) {
        this.list.scrollTop = element.offsetTop - this.list.offsetTop - this.list.clientHeight / 2;
      }
    }

    #seek(index) {
      const round = this.arm.rounds[Math.max(0, Math.min(index, this.arm.rounds.length - 1))];
      if (!round || this.store.live) return;
      this.store.pause();
      // The last round is the whole answer; any other, the moment it ended.
      this.store.seek(round.index === this.arm.rounds.length - 1 ? Infinity : round.clock);
    }

    #pick(event) {
      const element = event.target.closest("[data-round]");
      if (element) this.#seek(Number(element.dataset.round));
    }

    #arrow(event) {
      const direction = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!direction) return;
      event.preventDefault();
      let next = Number(this.slider.value) + direction;
      while (this.list.children[next]?.hidden) next += direction;
      if (this.list.children[next]) this.#seek(next);
    }

    #analyse() {
      this.analysed = this.store.run;
      const { kinds, counterfactuals, what_if: windows } = this.store.run.analysis;
      this.kinds.replaceChildren(
        ...kinds.map(({ kind, accepted, judged }) =>
          h(
            "div",
            { class: "bar-row" },
            h("span", {}, kind),
            bar(accepted / judged, "accepted"),
            h("b", {}, `${accepted} of ${judged}`),
          )
        ),
      );
      const widest = Math.max(1, ...windows.map((other) => other.expected_length));
      this.windows.replaceChildren(
        ...windows.map((other) =>
          h(
            "div",
            { class: "bar-row wide" },
            h("span", {}, `k = ${other.k}`),
            bar(other.expected_length / widest, "bonus"),
            h(
              "b",
              {},
              `${format.number(other.expected_length)}${
                other.tpot_s === null ? "" : ` · ${format.span(other.tpot_s)}`
              }`,
            ),
          )
        ),
      );
      this.rule.replaceChildren(
        h("option", { value: "" }, "no other acceptor"),
        ...counterfactuals.map(({ name }, index) => h("option", { value: String(index) }, name)),
      );
      this.again.hidden = counterfactuals.length === 0;
      this.#cut();
    }

    /** Where another acceptor would have cut each round, to the nearest draft. */
    #cut() {
      for (const old of this.list.querySelectorAll(".cut")) old.remove();
      const other = this.store.run.analysis?.counterfactuals[this.rule.value];
      this.ruleText.textContent = other && this.rule.value !== ""
        ? `${other.description} ${format.number(other.expected_length)} tokens a pass, against ${
          format.number(this.arm.rounds.at(-1).figures.mean_acceptance_length)
        } in this run. The bar with a number in each row: so many drafts it would have kept.`
        : "";
      if (!other || this.rule.value === "") return;
      const drafting = this.arm.rounds.filter((round) => round.drafted.length);
      drafting.forEach((round, place) => {
        const kept = other.kept[place];
        const boxes = this.list.children[round.index].querySelector(".boxes");
        const label = Number.isInteger(kept) || kept < 0.05 ? String(Math.round(kept)) : kept.toFixed(1);
        boxes.children[Math.round(kept)].after(
          h("span", {
            class: "cut",
            title: `${other.name} would keep ${kept.toFixed(Number.isInteger(kept) ? 0 : 2)} of these drafts`,
          }, label),
        );
      });
    }
  }

  /** visible: drawn at once, and not only when it comes into view. */
  Playground.mountRounds = (element, store = Playground.store, visible = false) =>
    element.replaceChildren(new Rounds(store, visible).element);
})();
