/* The whole answer in small. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { colours, h } = Playground;

  const ROW = 14; // pixels of a line of the minimap

  /** The whole answer in small: a mark for each token, as wide as its text; the round shown is framed. */
  class Minimap {
    constructor(pick) {
      this.element = h("canvas", {
        class: "minimap",
        role: "img",
        "aria-label": "The whole answer, a mark for each token",
        title: "The whole answer: click to go there",
        onclick: (event) => this.#click(event),
      });
      this.pick = pick;
      this.spots = [];
    }

    #click({ offsetX, offsetY }) {
      const line = this.spots.filter((spot) => Math.abs(spot.y + ROW / 2 - offsetY) <= ROW / 2);
      const spot = line.find(({ x, wide }) => offsetX < x + wide) ?? line.at(-1);
      if (spot) this.pick(spot.token.round.index);
    }

    /** Where each token's mark lies; lines break where they are full and where the text breaks. */
    #lay(tokens, width) {
      const letters = tokens.reduce((sum, token) => sum + Math.max(1, token.text.length), 0);
      const letter = Math.min(6, Math.max(1.5, (8 * width) / letters));
      let x = 0;
      let y = 0;
      this.spots = tokens.map((token) => {
        const wide = Math.max(1, token.special ? 2 : token.text.trimEnd().length) * letter;
        if (x > 0 && x + wide > width) [x, y] = [0, y + ROW];
        const spot = { token, x, y, wide };
        x += wide + 1;
        if (token.text.includes("\n")) [x, y] = [0, y + ROW];
        return spot;
      });
      return (this.spots.at(-1)?.y ?? 0) + ROW;
    }

    update(arm, shown) {
      const { element } = this;
      const width = element.clientWidth;
      if (!width) return;
      const ratio = window.devicePixelRatio || 1;
      const height = this.#lay(arm.tokens, width);
      element.style.height = `${height}px`;
      element.width = Math.round(width * ratio);
      element.height = Math.round(height * ratio);
      const paint = element.getContext("2d");
      paint.scale(ratio, ratio);
      const colour = colours(element, ["accepted", "corrected", "bonus", "target", "ink"]);
      for (const { token, x, y, wide } of this.spots) {
        paint.globalAlpha = token.round.index <= shown.index ? 1 : 0.3;
        paint.fillStyle = colour[token.kind];
        const short = token.kind === "corrected" || token.kind === "target" ? 3 : 0;
        paint.fillRect(x, y + 3 + short, wide, ROW - 6 - short);
        if (token.round === shown) {
          paint.globalAlpha = 1;
          paint.fillStyle = colour.ink;
          paint.fillRect(x, y + ROW - 2, wide + 1, 2);
          paint.fillRect(x, y, wide + 1, 2);
        }
      }
    }
  }

  Object.assign(Playground, { Minimap });
})();
