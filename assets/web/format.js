/* Numbers for people. Runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  const missing = (value) => value === null || value === undefined;
  const format = {
    ms: (seconds) => (missing(seconds) ? "–" : (seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)),
    /** A span of time with its unit: seconds from 1,000 ms on. */
    span: (
      seconds,
    ) => (missing(seconds)
      ? "–"
      : seconds < 0.9995
      ? `${format.ms(seconds)} ms`
      : `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`),
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
    /** A share below one as people say it: 1/12, or 70%. */
    fraction: (value) => (value > 0.4 ? `${Math.round(100 * value)}%` : `1/${Math.round(1 / value)}`),
    plural: (count, noun) =>
      `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : (noun.endsWith("s") ? "es" : "s")}`,
  };

  Object.assign(Playground, { format });
  if (typeof module !== "undefined") module.exports = Playground;
})();
