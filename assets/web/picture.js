/* Headline and race as one picture (SVG), for slides and papers. Runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { ARMS, NAMES, format } = Playground;

  const WIDTH = 1200;
  const LEFT = 150;
  const HEIGHT = 420;

  const escaped = (text) =>
    text.replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);

  /** Lines of at most `most` letters. */
  const wrapped = (text, most) => {
    const lines = [""];
    for (const word of text.split(" ")) {
      if (lines.at(-1) && lines.at(-1).length + word.length >= most) lines.push(word);
      else lines.push(`${lines.pop()} ${word}`.trim());
    }
    return lines;
  };

  /** The finished run as SVG. colour: the palette by name. */
  const picture = (run, colour) => {
    const last = Object.fromEntries(ARMS.map((arm) => [arm, run.arms[arm].rounds.at(-1)?.figures]));
    const text = (x, y, size, words, fill = "ink", weight = 400) =>
      `<text x="${x}" y="${y}" font-size="${size}" font-weight="${weight}" fill="${colour[fill]}">${
        escaped(words)
      }</text>`;
    const sentence = wrapped(run.verdict?.text ?? "", 74).slice(0, 3);
    const parts = sentence.map((line, place) => text(30, 50 + 34 * place, 27, line, "ink", 700));
    let y = 60 + 34 * sentence.length;
    const both = last.target?.tpot_s && last.speculative?.tpot_s;
    const figures = [
      ["Times as fast", both ? `${(last.target.tpot_s / last.speculative.tpot_s).toFixed(2)}×` : "–"],
      ["Time per output token, ms", ARMS.map((arm) => format.ms(last[arm]?.tpot_s)).join(" → ")],
      ["Passes of the big model", ARMS.map((arm) => (last[arm] ? last[arm].rounds + 1 : "–")).join(" → ")],
    ];
    figures.forEach(([title, value], place) =>
      parts.push(
        text(30 + 330 * place, y, 15, title, "muted", 600),
        text(30 + 330 * place, y + 42, 38, value, "accepted", 700),
      )
    );
    y += 76;
    const rows = Math.max(2, ...run.arms.speculative.rounds.map((round) => round.tokens.length));
    const cell = Math.min(22, (HEIGHT - y - 40) / (rows + 1));
    const scale = (WIDTH - LEFT - 30) / (run.duration || 1);
    const floors = { target: y + cell, speculative: y + cell + 14 + rows * cell };
    for (const arm of ARMS) {
      parts.push(text(30, floors[arm] - 3, 16, NAMES[arm], arm === "target" ? "target" : "accepted", 600));
      for (const round of run.arms[arm].rounds) {
        const x = LEFT + round.since * scale;
        const wide = Math.max(0.75, (round.clock - round.since) * scale - 1);
        round.tokens.forEach((token, place) => {
          const short = token.kind === "corrected" ? 0.35 * cell : 0;
          parts.push(
            `<rect x="${x.toFixed(2)}" y="${(floors[arm] - (place + 1) * cell + short).toFixed(2)}" width="${
              wide.toFixed(2)
            }" height="${(cell - short - 1).toFixed(2)}" fill="${colour[token.kind]}"/>`,
          );
        });
      }
    }
    const loop = run.started?.engine === "upstream" ? "upstream's own loop, a reference: " : "";
    const model = run.started
      ? `${loop}${run.started.target.name}, k = ${run.started.request.k}, ${format.span(run.duration)}`
      : "";
    parts.push(text(30, HEIGHT - 14, 14, model, "muted"));
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"><rect width="${WIDTH}" height="${HEIGHT}" fill="${colour.panel}"/>${
      parts.join("")
    }</svg>`;
  };

  Object.assign(Playground, { picture });
  if (typeof module !== "undefined") module.exports = Playground;
})();
