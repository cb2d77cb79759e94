/* One arm's answer, a box for each token. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { NAMES, format, h, promiseOf, roundAt, setText } = Playground;

  const MARKS = /[\u202a-\u202e\u2066-\u2069]/g; // they would turn the text around them, the page's own too

  /** A token's text: the spaces before it, which take no colour, and the rest. */
  const shownText = (run, token) => {
    if (token.special) return ["", run.label(token.id).replace(/^<\|?|\|?>$/g, "")];
    const text = (token.text ?? "").replace(MARKS, (mark) => `‹${mark.codePointAt(0).toString(16).toUpperCase()}›`)
      .replace(/\n/g, "↵\n");
    const [spaces] = token.index === null ? [""] : /^ *(?=\S)/u.exec(text) ?? [""];
    return [spaces, text.slice(spaces.length)];
  };

  const tokenElement = (text, token) => {
    const part = text === ""; // of a character that a later token completes
    const classes = ["tok", `k-${token.kind}`, token.special && "special", part && "part"].filter(Boolean).join(" ");
    return h("span", {
      class: classes,
      role: "option",
      tabindex: "-1",
      "aria-label": part ? "part of a character" : text.trim() ? null : "space",
    }, text);
  };

  /** One arm's tokens, appended as they come; never drawn twice. */
  class Pane {
    static tour = {
      title: "Inside a window",
      words:
        "Dotted are the guesses of the small model. One pass of the big one judges them all, left to right: kept, kept, refused. The first that is refused is replaced by the big model's own token. Press step to go on.",
      act: (store) => {
        store.pause();
        const round = store.run.arms.speculative.rounds.find(({ refused, tokens }) =>
          refused.length && tokens.length > 1
        );
        if (round) store.showWindow(round);
      },
    };

    constructor(store, arm) {
      this.store = store;
      this.elements = new WeakMap(); // by token
      this.tokens = new WeakMap(); // by element
      this.places = new WeakMap(); // by element
      this.arm = arm;
      this.list = h("div", {
        class: "pane-text",
        role: "listbox",
        "aria-label": `${NAMES[arm]}: tokens`,
        "aria-orientation": "horizontal",
        tabindex: "0",
      });
      this.place = h("span", { class: "pane-figure" });
      this.promise = h("span", { class: "promise", hidden: true });
      this.empty = h(
        "p",
        { class: "pane-empty" },
        arm === "target"
          ? "The target answers alone here, one token a pass."
          : "The same target answers here, with a draft model speculating for it.",
      );
      this.element = h(
        "section",
        { class: `pane pane-${arm}`, "aria-label": NAMES[arm] },
        h("header", {}, h("h2", {}, NAMES[arm]), this.promise, this.place),
        this.list,
        this.empty,
      );
      this.twin = null; // the other pane, which scrolls with this one
      this.led = null; // where the other pane has scrolled this one to
      this.list.addEventListener("scroll", () => this.#scrolled());
      this.reset();
    }

    #scrolled() {
      this.follow = this.list.scrollTop + this.list.clientHeight > this.list.scrollHeight - 30;
      const led = this.list.scrollTop === this.led;
      this.led = null;
      if (!led && this.twin && !this.store.live && !this.store.playing) this.lead();
    }

    /** The other pane shows the same place of the answer, though refused drafts make one of them longer: the current
     * token stands as high in both, or where it is out of sight the first one that is in it. */
    lead() {
      const { tokens } = this.data;
      const [from, to] = [this.list.scrollTop, this.list.scrollTop + this.list.clientHeight];
      let place = this.tokens.get(this.list.querySelector(".current"))?.index ?? -1;
      if (place < 0 || this.#top(place) < from || this.#top(place) > to) {
        let last = tokens.length - 1;
        place = 0;
        while (place < last) {
          const middle = (place + last) >> 1;
          if (this.#top(middle) + this.elements.get(tokens[middle]).offsetHeight > from) last = middle;
          else place = middle + 1;
        }
      }
      if (place < tokens.length) this.twin.showAt(place, this.#top(place) - from);
    }

    #top(place) {
      return this.elements.get(this.data.tokens[place]).offsetTop - this.list.offsetTop;
    }

    /** Scroll so that the answer's token `place` stands `distance` below the pane's upper edge. */
    showAt(place, distance) {
      const last = this.data.tokens.length - 1;
      if (last < 0) return;
      const before = this.list.scrollTop;
      this.list.scrollTop = this.#top(Math.min(place, last)) - distance;
      if (this.list.scrollTop !== before) this.led = this.list.scrollTop; // which leads nobody back
    }

    /** Show the answer from its beginning. */
    toTop() {
      this.list.scrollTop = 0;
    }

    reset() {
      this.list.replaceChildren();
      this.staged = [];
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
      return this.store.run.arms[this.arm];
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
      this.paragraph ??= this.list.appendChild(h("div", { class: "paragraph", role: "presentation", dir: "auto" }));
      const [spaces, text] = shownText(this.store.run, token);
      const element = tokenElement(text, token);
      this.elements.set(token, element);
      this.tokens.set(element, token);
      this.paragraph.append(spaces, element);
      this.places.set(element, this.order.push(element) - 1);
      if (token.index !== null && token.text?.endsWith("\n")) this.paragraph = null;
    }

    /** Show the rounds that had ended by the store's time; the others wait, invisible, in their places. */
    seek(fresh = false) {
      const round = roundAt(this.data, this.store.time);
      const shown = round ? round.index + 1 : 0;
      for (
        let index = Math.min(shown, this.shown);
        index < Math.max(shown, this.shown, fresh ? this.drawn : 0);
        index++
      ) {
        const each = this.data.rounds[index];
        if (!each) break;
        for (const token of [...each.tokens, ...each.refused]) {
          this.elements.get(token)?.classList.toggle("ahead", index >= shown);
        }
      }
      this.shown = shown;
      this.#stage();
      const tokenCount = round ? round.figures.tokens : 0;
      setText(this.place, round ? `${format.plural(tokenCount, "token")} · ${format.span(round.clock)}` : "");
    }

    /** Scroll to what is shown. After all else on the page has changed, so that it is laid out once. */
    keepUp() {
      const round = roundAt(this.data, this.store.time);
      // A trace that is opened is read from its start; what grows or plays is followed.
      if (this.follow && round && (this.store.live || this.store.playing || this.store.time !== Infinity)) {
        const last = this.elements.get(round.tokens.at(-1) ?? round.refused.at(-1));
        if (this.store.time === Infinity) this.list.scrollTop = this.list.scrollHeight;
        else if (last) this.list.scrollTop = last.offsetTop - this.list.offsetTop - this.list.clientHeight + 60;
      }
    }

    /** The window under way: its drafts dotted in their places, each with its verdict where that has fallen. */
    #stage() {
      for (const element of this.staged) element.classList.remove("proposed", "judged");
      this.staged = [];
      const window = this.arm === "speculative" ? this.store.window : null;
      if (!window) return;
      const { round, drafts, verdicts } = window;
      const proposed = [...round.tokens.filter((token) => token.kind === "accepted"), ...round.refused].slice(
        0,
        drafts,
      );
      this.staged = proposed.map((token) => this.elements.get(token)).filter(Boolean);
      this.staged.forEach((element, place) => {
        element.classList.add("proposed");
        element.classList.toggle("judged", place < verdicts);
      });
    }

    /** Which acceptor judged what stands here, and whether the text is still distributed as the target's. */
    rule(started) {
      this.promise.hidden = this.arm === "target" || !started;
      if (this.promise.hidden) return;
      const promise = promiseOf(started);
      this.promise.className = `promise ${promise.kind}`;
      setText(this.promise, `${started.request.acceptor}, ${promise.name}`);
      this.promise.title = promise.title;
    }

    markDivergence() {
      const at = this.store.run.diverged;
      if (at === this.marked) return;
      this.elements.get(this.data.tokens[this.marked])?.classList.remove("diverged");
      const element = this.elements.get(this.data.tokens[at]);
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
      let place = this.places.get(element);
      let next;
      do next = this.order[place += direction]; while (
        next && (next.classList.contains("ahead") || next.offsetParent === null)
      );
      return next;
    }
  }

  Object.assign(Playground, { Pane });
})();
