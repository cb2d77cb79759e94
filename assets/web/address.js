/* The state of the page as an address, and back: what a link holds. Runs in node as well. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  /** Each knob's name in an address. k holds auto as well: "auto" in place of a number. */
  const KEYS = {
    prompt: "prompt",
    k: "k",
    temperature: "t",
    top_p: "top_p",
    top_k: "top_k",
    seed: "seed",
    max_tokens: "max",
    acceptor: "acceptor",
    drafter: "drafter",
    arms: "arms",
    system: "system",
    chat_template: "template",
  };
  const NUMBERS = new Set(["temperature", "top_p", "top_k", "seed", "max_tokens"]);
  const OFF = "off";

  /** The parameters of these settings, those left out that are the defaults anyway. */
  const toParameters = (settings, defaults = {}) => {
    const parameters = new URLSearchParams();
    for (const [name, key] of Object.entries(KEYS)) {
      const value = settings[name];
      if (value === undefined || value === null || value === defaults[name]) continue;
      parameters.set(key, name === "chat_template" ? (value ? "on" : OFF) : String(value));
    }
    return parameters;
  };

  /** The settings in an address; what it does not name is not in them, and what is no number where one belongs is left out. */
  const fromParameters = (parameters) => {
    const settings = {};
    for (const [name, key] of Object.entries(KEYS)) {
      const text = parameters.get(key);
      if (text === null) continue;
      if (name === "chat_template") settings[name] = text !== OFF;
      else if (name === "k" && text === "auto") settings.k = "auto";
      else if (name === "k" || NUMBERS.has(name)) {
        if (text.trim() !== "" && Number.isFinite(Number(text))) settings[name] = Number(text);
      } else settings[name] = text;
    }
    return settings;
  };

  /** What a request of a trace says of the knobs. */
  const settingsOf = (request) => ({
    prompt: request.prompt || request.messages?.at(-1)?.content || "",
    k: request.k,
    ...request.sampling,
    max_tokens: request.max_tokens,
    acceptor: request.acceptor,
    drafter: request.drafter,
    arms: request.arms,
    system: request.system,
    chat_template: request.chat_template,
  });

  Object.assign(Playground, { fromParameters, settingsOf, toParameters });
  if (typeof module !== "undefined") module.exports = Playground;
})();
