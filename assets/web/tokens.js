/* Panes of tokens, and the card that says everything about one token. */
(() => {
  const { ARMS, NAMES, h, format, roundAt, store } = window.Playground;

  const AUTO = "auto"; // the k of a request that leaves the window of each round to the loop

  /** What each kind is called; how it looks is the style sheet's business (colour and form). */
  const KINDS = ["accepted", "corrected", "bonus", "target", "rejected", "discarded"];
  const elements = new WeakMap();
  const tokens = new WeakMap();
  const places = new WeakMap();

  const shownText = (token) => {
    if (token.special) return store.run.label(token.id).replace(/^<\|?|\|?>$/g, "");
    return (token.text ?? "").replace(/\n/g, "↵\n");
  };

  const tokenElement = (token) => {
    const text = shownText(token);
    const half = text === "";
    const classes = ["tok", `k-${token.kind}`, token.special && "special", half && "half"].filter(Boolean).join(" ");
    const element = h("span", { class: classes, role: "option", tabindex: "-1", "aria-label": half ? "part of a character" : null }, half ? "·" : text);
    elements.set(token, element);
    tokens.set(element, token);
    return element;
  };

  /** One arm's tokens, appended as they come; never drawn twice. */
  class Pane {
    constructor(arm) {
      this.arm = arm;
      this.list = h("div", { class: "pane-text", role: "listbox", "aria-label": `${NAMES[arm]}: tokens`, "aria-orientation": "horizontal", tabindex: "0" });
      this.place = h("span", { class: "pane-figure" });
      this.promise = h("span", { class: "promise", hidden: true });
      this.empty = h("p", { class: "pane-empty" }, arm === "target" ? "The target answers alone here, one token a pass." : "The same target answers here, with a draft model speculating for it.");
      this.element = h("section", { class: `pane pane-${arm}`, "aria-label": NAMES[arm] }, h("header", {}, h("h3", {}, NAMES[arm]), this.promise, this.place), this.list, this.empty);
      this.list.addEventListener("scroll", () => (this.follow = this.list.scrollTop + this.list.clientHeight > this.list.scrollHeight - 30));
      this.reset();
    }

    reset() {
      this.list.replaceChildren();
      this.paragraph = null;
      this.order = [];
      this.follow = true;
      this.drawn = 0;
      this.shown = 0;
      this.stop = null;
      this.place.textContent = "";
      this.marked = null;
      this.empty.hidden = false;
    }

    get data() {
      return store.run.arms[this.arm];
    }

    /** Append the rounds that are new. */
    grow() {
      const fresh = this.data.rounds.slice(this.drawn);
      if (!fresh.length) return;
      this.empty.hidden = true;
      for (const round of fresh) {
        const kept = round.tokens.filter((token) => token.kind === "accepted");
        const last = round.tokens.slice(kept.length);
        for (const token of [...kept, ...round.refused, ...last]) this.#append(token);
      }
      this.drawn = this.data.rounds.length;
      if (!this.stop) this.#rove(this.order[0]);
      this.seek(true);
      this.markDivergence();
    }

    /** A block for each paragraph: the browser then lays out the last one alone, however long the text is. */
    #append(token) {
      this.paragraph ??= this.list.appendChild(h("div", { class: "paragraph", role: "presentation" }));
      const element = tokenElement(token);
      this.paragraph.append(element);
      places.set(element, this.order.push(element) - 1);
      if (token.index !== null && token.text?.endsWith("\n")) this.paragraph = null;
    }

    /** Show the rounds that had ended by the store's time; the others wait, invisible, in their places. */
    seek(fresh = false) {
      const round = roundAt(this.data, store.time);
      const shown = round ? round.index + 1 : 0;
      for (let index = Math.min(shown, this.shown); index < Math.max(shown, this.shown, fresh ? this.drawn : 0); index++) {
        const each = this.data.rounds[index];
        if (!each) break;
        for (const token of [...each.tokens, ...each.refused]) elements.get(token)?.classList.toggle("ahead", index >= shown);
      }
      this.shown = shown;
      const tokenCount = round ? round.figures.tokens : 0;
      this.place.textContent = round ? `${format.plural(tokenCount, "token")} · ${format.seconds(round.clock)}` : "";
      // A trace that is opened is read from its start; what grows or plays is followed.
      if (this.follow && round && (store.live || store.playing || store.time !== Infinity)) {
        const last = elements.get(round.tokens.at(-1) ?? round.refused.at(-1));
        if (store.time === Infinity) this.list.scrollTop = this.list.scrollHeight;
        else if (last) this.list.scrollTop = last.offsetTop - this.list.offsetTop - this.list.clientHeight + 60;
      }
    }

    /** Which acceptor judged what stands here, and whether the text is still distributed as the target's. */
    rule(started) {
      this.promise.hidden = this.arm === "target" || !started;
      if (this.promise.hidden) return;
      const promise = started.lossless ? "lossless" : "lossy";
      this.promise.className = `promise ${promise}`;
      this.promise.textContent = `${started.request.acceptor}, ${promise}`;
      this.promise.title = started.lossless ? "This text is distributed exactly as the target's own." : "This rule keeps drafts the target would not have chosen: the text is not the target's.";
    }

    markDivergence() {
      const at = store.run.diverged;
      if (at === this.marked) return;
      elements.get(this.data.tokens[this.marked])?.classList.remove("diverged");
      const element = elements.get(this.data.tokens[at]);
      element?.classList.add("diverged");
      this.marked = element ? at : null;
    }

    /** The one token that Tab reaches; arrow keys move it. */
    #rove(element) {
      if (!element) return;
      this.stop?.setAttribute("tabindex", "-1");
      this.stop = element;
      element.setAttribute("tabindex", "0");
      this.list.setAttribute("tabindex", "-1");
    }

    focus(element) {
      this.#rove(element);
      element.focus({ preventScroll: true });
      element.scrollIntoView({ block: "nearest" });
    }

    neighbour(element, direction) {
      let place = places.get(element);
      let next;
      do next = this.order[(place += direction)];
      while (next && (next.classList.contains("ahead") || next.offsetParent === null));
      return next;
    }
  }

  const bar = (value, className = "") => {
    const fill = h("i", { class: `bar-fill ${className}` });
    fill.style.width = `${Math.min(1, Math.max(0, value)) * 100}%`;
    return h("span", { class: "bar" }, fill);
  };

  /** Whether the warp leaves a model's distribution as it is, so that one figure says both. */
  const unwarped = () => {
    const { temperature, top_p: topP, top_k: topK } = store.run.started?.request.sampling ?? {};
    return temperature === 1 && topP === 1 && topK === 0;
  };

  /** Likeliest first, before and after what `heads` names; the token itself follows where it is not among them. */
  const alternatives = (title, list, chosen, side, probability, heads = unwarped() ? [] : ["model", "warped"]) => {
    const known = probability === undefined || list.some((other) => other.id === chosen);
    const shown = known ? list : [...list, { id: chosen, model_prob: null, warped_prob: probability }];
    const row = (other) => {
      const gauge = bar(other.warped_prob, side);
      if (heads.length) gauge.style.setProperty("--before", `${100 * (other.model_prob ?? 0)}%`);
      const before = heads.length ? h("span", { class: "before" }, format.chance(other.model_prob)) : null;
      return h("div", { class: other.id === chosen ? "alt chosen" : "alt" }, h("code", {}, store.run.label(other.id)), gauge, before, h("b", {}, format.chance(other.warped_prob)));
    };
    const head = heads.length ? h("div", { class: "alt alt-head" }, h("h5", {}, title), ...heads.map((each) => h("span", {}, each))) : h("h5", {}, title);
    return h("div", { class: `alts alts-${side}${heads.length ? " both" : ""}` }, head, ...shown.map(row));
  };

  const coin = (drafted) => {
    const kept = drafted.state === "accepted";
    const gauge = h("div", { class: "coin", role: "img", "aria-label": `coin ${format.chance(drafted.u)} against ${format.chance(drafted.threshold)}` });
    const zone = h("i", { class: "coin-zone" });
    zone.style.width = `${Math.min(1, drafted.threshold) * 100}%`;
    const mark = h("i", { class: "coin-mark" });
    mark.style.left = `${drafted.u * 100}%`;
    gauge.append(zone, mark);
    const margin = Math.abs(drafted.threshold - drafted.u);
    const below = drafted.u < drafted.threshold;
    const outcome = below === kept ? (kept ? `kept, with ${format.chance(margin)} to spare` : `refused, by ${format.chance(margin)}`) : kept ? "kept, by a later coin of the block" : "refused, by the block as a whole";
    return h("div", { class: "coin-row" }, h("p", {}, "coin ", h("b", {}, `u = ${format.chance(drafted.u)}`), below ? " < " : " ≥ ", h("b", {}, format.chance(drafted.threshold)), ` = ${thresholdName()}: ${outcome}`), gauge);
  };

  const thresholdName = () => {
    const acceptor = store.run.started?.request.acceptor;
    return { lenient: "min(1, 2p/q)", block: "the chance of the block up to here" }[acceptor] ?? "min(1, p/q)";
  };

  const sentence = (token) => {
    const { round } = token;
    const place = `Round ${round.index}`;
    if (round.index === 0) return `${place}: the prefill. The target made the first token.`;
    if (token.arm === "target") return `${place}: one pass of the target, one token.`;
    const window = round.drafted.length;
    const where = `${place}, place ${token.place + 1} of ${window + 1}.`;
    const proposed = round.source === "lookup" ? "It followed the same tokens earlier in the text, so it was proposed again," : "The draft proposed it";
    const { drafter, k } = store.run.started?.request ?? {};
    const nothing = drafter === "lookup" ? "the text held nothing to look up" : round.k === 1 && k === AUTO ? "drafting did not look worth its time" : "the window no longer fitted";
    // with k = auto a window may end before its widest
    const ended = k === AUTO && round.source === "draft" && token.place === window - 1 && window + 1 < round.k && !token.special;
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
  const cardContent = (token) => {
    const { drafted, final } = token;
    const text = store.run.label(token.id);
    const head = h("header", {}, h("code", { class: `card-token k-${token.kind}` }, text), h("span", { class: `chip k-${token.kind}` }, token.kind), h("span", { class: "card-id" }, `id ${token.id}${token.index === null ? "" : ` · token ${token.index + 1}`}`));
    const content = [head, h("p", { class: "card-where" }, sentence(token))];
    if (drafted) {
      content.push(
        h("div", { class: "pq" }, h("span", {}, "p target"), bar(drafted.p, "target"), h("b", { "data-figure": "p" }, format.chance(drafted.p)), h("span", {}, "q draft"), bar(drafted.q, "draft"), h("b", { "data-figure": "q" }, format.chance(drafted.q))),
      );
      if (drafted.u !== null && drafted.threshold !== null) content.push(coin(drafted));
      else if (drafted.state !== "discarded") content.push(h("p", { class: "card-note" }, "This acceptor flips no coin for it."));
      content.push(h("div", { class: "alt-columns" }, alternatives("target's likeliest", drafted.target_alternatives, token.id, "target", drafted.p), alternatives("draft's likeliest", drafted.draft_alternatives, token.id, "draft", drafted.q)));
    } else {
      content.push(h("div", { class: "pq" }, h("span", {}, "p target"), bar(final.p, "target"), h("b", { "data-figure": "p" }, format.chance(final.p))));
      const columns = [alternatives("target's likeliest", final.alternatives, token.id, "target", final.p)];
      if (final.residual.length) columns.push(alternatives("drawn from", final.residual, token.id, "residual", undefined, ["p", "residual"]));
      content.push(h("div", { class: "alt-columns" }, ...columns));
    }
    return content;
  };

  /** The card: follows hover and focus; a click or Enter pins it, Escape closes it. */
  class Card {
    constructor() {
      this.element = h("aside", { class: "pg pg-card", role: "dialog", "aria-label": "Token", hidden: true });
      this.pinned = null;
      this.shown = null;
      document.body.append(this.element);
    }

    show(element, pin = false) {
      const token = tokens.get(element);
      if (!token || (this.pinned && !pin)) return;
      this.#mark(element);
      if (pin) this.pinned = element;
      this.element.classList.toggle("pinned", Boolean(this.pinned));
      this.element.replaceChildren(...cardContent(token));
      this.element.classList.toggle("wide", this.element.querySelector(".alts.both") !== null);
      if (pin) this.element.prepend(h("button", { class: "card-close", "aria-label": "Close the token card", onclick: () => this.hide(true) }, "×"));
      this.element.hidden = false;
      this.#place(element);
    }

    hide(unpin = false) {
      if (this.pinned && !unpin) return;
      const back = this.pinned;
      this.pinned = null;
      this.element.hidden = true;
      this.#mark(null);
      if (unpin && back && this.element.contains(document.activeElement)) back.focus();
    }

    #mark(element) {
      const token = element && tokens.get(element);
      for (const old of this.marked ?? []) old.classList.remove("same-round", "same-place", "current");
      this.marked = [];
      if (!token) return;
      const mark = (other, name) => {
        const found = other && elements.get(other);
        if (!found) return;
        found.classList.add(name);
        this.marked.push(found);
      };
      if (token.arm === "speculative") for (const other of [...token.round.tokens, ...token.round.refused]) mark(other, "same-round");
      const opposite = ARMS.find((arm) => arm !== token.arm);
      if (token.index !== null) mark(store.run.arms[opposite].tokens[token.index], "same-place");
      mark(token, "current");
      element.setAttribute("aria-label", `${store.run.label(token.id)}, ${token.kind}`);
    }

    #place(element) {
      if (window.innerWidth < 700) {
        this.element.removeAttribute("style");
        return;
      }
      const spot = element.getClientRects()[0] ?? element.getBoundingClientRect();
      const { offsetWidth: width, offsetHeight: height } = this.element;
      const left = Math.max(8, Math.min(spot.left - 20, document.documentElement.clientWidth - width - 12));
      const below = spot.bottom + height + 16 < window.innerHeight || spot.top < height + 16;
      this.element.style.left = `${left + window.scrollX}px`;
      this.element.style.top = `${(below ? spot.bottom + 8 : spot.top - height - 8) + window.scrollY}px`;
    }
  }

  /** Hover, click and keys on the panes inside `root`. */
  const attachCard = (root, panes) => {
    const card = new Card();
    const optionOf = (event) => event.target.closest?.(".tok");
    root.addEventListener("pointerover", (event) => event.pointerType !== "touch" && optionOf(event) && card.show(optionOf(event)));
    root.addEventListener("pointerout", (event) => optionOf(event) && card.hide());
    root.addEventListener("focusin", (event) => optionOf(event)?.matches(":focus-visible") && card.show(optionOf(event)));
    root.addEventListener("focusout", () => card.hide());
    root.addEventListener("click", (event) => {
      const element = optionOf(event);
      if (!element) return;
      if (card.pinned === element) card.hide(true);
      else card.show(element, true);
    });
    document.addEventListener("click", (event) => card.pinned && !card.element.contains(event.target) && !optionOf(event) && card.hide(true));
    document.addEventListener("keydown", (event) => event.key === "Escape" && card.hide(true));
    root.addEventListener("keydown", (event) => {
      const element = optionOf(event) ?? (event.target.classList?.contains("pane-text") ? event.target.querySelector(".tok") : null);
      const pane = element && panes.find((each) => each.list.contains(element));
      if (!pane) return;
      const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      if (event.key in moves) {
        const next = pane.neighbour(element, moves[event.key]);
        if (next) {
          if (card.pinned) card.hide(true);
          pane.focus(next);
          card.show(next);
        }
      } else if (event.key === "Home" || event.key === "End") {
        pane.focus(pane.order.at(event.key === "Home" ? 0 : -1));
      } else if (event.key === "Enter" || event.key === " ") card.show(element, true);
      else return;
      event.preventDefault();
    });
    store.on("run", () => card.hide(true));
    return card;
  };

  Object.assign(window.Playground, { KINDS, Pane, attachCard, bar });
})();
