/* A tour of the page in a few steps. Its words stand with what they are about (`static tour` of each view), which also moves
   the picture for its step; here is only the box that shows them, and the step in the address. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { h } = Playground;

  const KEY = "tour";

  class Tour {
    /** stops: {element, title, words, act} each; act moves the picture to what the words say. */
    constructor(stops) {
      this.stops = stops;
      this.place = -1;
      this.title = h("b", {});
      this.words = h("p", {});
      this.where = h("span", { class: "tour-where" });
      const button = (label, act) => h("button", { type: "button", class: "tool", onclick: act }, label);
      this.next = button("Next", () => this.show(this.place + 1));
      this.element = h(
        "aside",
        { class: "pg tour", role: "dialog", "aria-label": "Tour", hidden: true },
        h("header", {}, this.title, this.where),
        this.words,
        h(
          "div",
          { class: "tools" },
          button("Back", () => this.show(Math.max(0, this.place - 1))),
          this.next,
          button("Leave the tour", () => this.leave()),
        ),
      );
      document.body.append(this.element);
      document.addEventListener("keydown", (event) => event.key === "Escape" && this.leave());
    }

    show(place) {
      if (place >= this.stops.length) return this.leave();
      this.#mark(false);
      this.place = place;
      const { element, title, words, act } = this.stops[place];
      this.title.textContent = title;
      this.words.textContent = words;
      this.where.textContent = `${place + 1} of ${this.stops.length}`;
      this.next.textContent = place === this.stops.length - 1 ? "Done" : "Next";
      this.element.hidden = false;
      this.#mark(true);
      element.scrollIntoView({ block: "nearest" });
      act?.();
      this.next.focus();
      this.#note(String(place + 1));
    }

    leave() {
      if (this.element.hidden) return;
      this.#mark(false);
      this.element.hidden = true;
      this.#note(null);
    }

    #mark(on) {
      this.stops[this.place]?.element.classList.toggle("toured", on);
    }

    #note(place) {
      const query = new URLSearchParams(location.search);
      if (place === null) query.delete(KEY);
      else query.set(KEY, place);
      history.replaceState(history.state, "", query.size ? `?${query}` : location.pathname);
    }
  }

  /** The step that the address asks for, from 0; NaN where it asks for none. */
  Tour.asked = () => Number(new URLSearchParams(location.search).get(KEY) ?? NaN) - 1;

  Object.assign(Playground, { Tour });
})();
