/* The token card: follows hover and focus; a click or Enter pins it, beside the panes where there is room, and the arrow keys
   then walk with it; Escape closes it. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { ARMS, cardContent, h } = Playground;

  const ROOM = 1000; // pixels from which both panes and the card stand side by side

  class Card {
    /** root: holds the panes, and the pinned card beside them. */
    constructor(store, root, panes) {
      this.store = store;
      this.root = root;
      this.panes = panes;
      this.element = h("aside", { class: "pg pg-card", role: "dialog", "aria-label": "Token", hidden: true });
      this.pinned = null;
      this.shown = null;
      this.pointer = "";
      this.rest = null; // where the pointer was as the panes moved below it: what lies there now was not pointed at
      document.body.append(this.element);
    }

    /** Whether the pointer has not moved since the panes did. */
    rests(event) {
      this.pointer = `${event.clientX} ${event.clientY}`;
      return this.pointer === this.rest;
    }

    #tokenOf(element) {
      return this.panes.find((pane) => pane.tokens.has(element))?.tokens.get(element);
    }

    #elementOf(token) {
      return this.panes.find((pane) => pane.arm === token.arm)?.elements.get(token);
    }

    show(element, pin = false) {
      const token = this.#tokenOf(element);
      if (!token || (this.pinned && !pin)) return;
      this.#mark(element);
      // not under a mouse that passes over it
      if (pin || element === document.activeElement) this.panes.find((pane) => pane.tokens.has(element)).lead();
      if (pin) this.pinned = element;
      this.element.classList.toggle("pinned", Boolean(this.pinned));
      this.element.replaceChildren(...cardContent(this.store.run, token));
      this.element.classList.toggle("wide", this.element.querySelector(".alts.both") !== null);
      if (pin) {
        this.element.prepend(h("button", {
          class: "card-close",
          "aria-label": "Close the token card",
          onclick: () => this.hide(true),
        }, "×"));
      }
      this.element.hidden = false;
      this.#dock(Boolean(this.pinned) && this.root.clientWidth >= ROOM);
      if (this.docked) element.scrollIntoView({ block: "nearest" });
      else this.#place(element);
    }

    get docked() {
      return this.element.parentElement === this.root;
    }

    /** Beside the panes, or above the page. */
    #dock(on) {
      this.root.classList.toggle("with-card", on);
      if (this.docked === on) return;
      this.rest = this.pointer;
      this.element.removeAttribute("style");
      (on ? this.root : document.body).append(this.element);
    }

    hide(unpin = false) {
      if (this.pinned && !unpin) return;
      const back = this.pinned;
      const inside = this.element.contains(document.activeElement);
      this.pinned = null;
      this.element.hidden = true;
      this.#dock(false);
      this.#mark(null);
      if (unpin && back && inside) back.focus();
    }

    #mark(element) {
      const token = element && this.#tokenOf(element);
      for (const old of this.marked ?? []) old.classList.remove("same-round", "same-place", "current");
      this.marked = [];
      if (!token) return;
      const mark = (other, name) => {
        const found = other && this.#elementOf(other);
        if (!found) return;
        found.classList.add(name);
        this.marked.push(found);
      };
      if (token.arm === "speculative") {
        for (const other of [...token.round.tokens, ...token.round.refused]) mark(other, "same-round");
      }
      const opposite = ARMS.find((arm) => arm !== token.arm);
      if (token.index !== null) mark(this.store.run.arms[opposite].tokens[token.index], "same-place");
      mark(token, "current");
      element.setAttribute("aria-label", `${this.store.run.label(token.id)}, ${token.kind}`);
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
  const attachCard = (store, root, panes) => {
    const card = new Card(store, root, panes);
    const optionOf = (event) => event.target.closest?.(".tok");
    root.addEventListener(
      "pointerover",
      (event) => event.pointerType !== "touch" && !card.rests(event) && optionOf(event) && card.show(optionOf(event)),
    );
    for (const type of ["pointerdown", "pointermove"]) root.addEventListener(type, (event) => card.rests(event));
    root.addEventListener("pointerout", (event) => optionOf(event) && card.hide());
    root.addEventListener(
      "focusin",
      (event) => optionOf(event)?.matches(":focus-visible") && card.show(optionOf(event)),
    );
    root.addEventListener("focusout", () => card.hide());
    root.addEventListener("click", (event) => {
      const element = optionOf(event);
      if (!element) return;
      if (card.pinned === element) card.hide(true);
      else card.show(element, true);
    });
    document.addEventListener(
      "click",
      (event) =>
        card.pinned && !card.docked && !card.element.contains(event.target) && !optionOf(event) && card.hide(true),
    );
    document.addEventListener("keydown", (event) => event.key === "Escape" && card.hide(true));
    root.addEventListener("keydown", (event) => {
      const element = optionOf(event)
        ?? (event.target.classList?.contains("pane-text") ? event.target.querySelector(".tok") : null);
      const pane = element && panes.find((each) => each.list.contains(element));
      if (!pane) return;
      const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      if (event.key in moves) {
        const next = pane.neighbour(element, moves[event.key]);
        if (next) {
          pane.focus(next);
          card.show(next, Boolean(card.pinned));
        }
      } else if (event.key === "Home" || event.key === "End") {
        pane.focus(pane.order.at(event.key === "Home" ? 0 : -1));
      } else if (event.key === "Enter" || event.key === " ") card.show(element, true);
      else return;
      event.preventDefault();
    });
    store.on("run", () => card.hide(true));
    const narrow = () => root.clientWidth > 0 && root.clientWidth < ROOM; // it has no width behind another tab
    new ResizeObserver(() => card.docked && narrow() && card.show(card.pinned, true)).observe(root);
    return card;
  };

  Object.assign(Playground, { attachCard });
})();
