/* Numbers for people. Runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  const missing = (value) => value === null || value === undefined;
  const format = {
    ms: (seconds) => (missing(seconds) ? "–" : (seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)),
    seconds: (value) => (missing(value) ? "–" : `${value.toFixed(2)} s`),
    number: (value, digits = 2) => (missing(value) ? "–" : value.toFixed(digits)),
    percent: (value) => (missing(value) ? "–" : `${Math.round(value * 100)}%`),
    /** A probability: three digits, and never a false 0 or 1. */
    chance: (value) => {
      if (missing(value)) return "–";
      if (value > 0 && value < 0.0005) return value.toExponential(0).replace("e-", "e−");
      if (value < 1 && value > 0.9995) return ">0.999";
      return value === 0 || value === 1 ? String(value) : value.toFixed(3);
    },
    plural: (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`,
  };

  Object.assign(Playground, { format });
  if (typeof module !== "undefined") module.exports = Playground;
})();
