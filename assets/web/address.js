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
    messages: "turns",
  };
  const NUMBERS = new Set(["temperature", "top_p", "top_k", "seed", "max_tokens"]);
  const OFF = "off";
  const LONGEST = 4000; // letters of a conversation in an address, which servers and proxies cut off
  const SHELVED = "kept"; // in place of a longer one, which this tab keeps

  const asText = (messages) => JSON.stringify(messages.map(({ role, content }) => [role, content]));

  /** The turns of a conversation as they were written into an address; none where that is something else. */
  const fromText = (text) => {
    try {
      const turns = JSON.parse(text).map(([role, content]) => ({ role, content }));
      const whole = turns.every(({ role, content }) =>
        ["user", "assistant"].includes(role) && typeof content === "string"
      );
      return whole ? turns : [];
    } catch {
      return [];
    }
  };

  /** The parameters of these settings, those left out that are the defaults anyway. */
  const toParameters = (settings, defaults = {}) => {
    const parameters = new URLSearchParams();
    for (const [name, key] of Object.entries(KEYS)) {
      const value = settings[name];
      if (value === undefined || value === null || value === defaults[name]) continue;
      if (name === "messages") {
        if (!value.length) continue;
        const text = asText(value);
        parameters.set(key, text.length > LONGEST ? SHELVED : text);
      } else parameters.set(key, name === "chat_template" ? (value ? "on" : OFF) : String(value));
    }
    return parameters;
  };

  /** The settings in an address; what it does not name is not in them, and what is no number where one belongs is left out. kept: the
   * conversation of this tab, where the address says that it is too long for one. */
  const fromParameters = (parameters, kept = "[]") => {
    const settings = {};
    for (const [name, key] of Object.entries(KEYS)) {
      const text = parameters.get(key);
      if (text === null) continue;
      if (name === "messages") settings.messages = fromText(text === SHELVED ? kept : text);
      else if (name === "chat_template") settings[name] = text !== OFF;
      else if (name === "k" && text === "auto") settings.k = "auto";
      else if (name === "k" || NUMBERS.has(name)) {
        if (text.trim() !== "" && Number.isFinite(Number(text))) settings[name] = Number(text);
      } else settings[name] = text;
    }
    return settings;
  };

  /** A request's conversation: {prompt: what is asked now, messages: the turns before it}, its system prompt left out. */
  const parted = ({ prompt, messages = [] }) => {
    const turns = messages.filter(({ role }) => role !== "system");
    return turns.at(-1)?.role === "user"
      ? { prompt: turns.at(-1).content, messages: turns.slice(0, -1) }
      : { prompt, messages: turns };
  };
  const systemOf = ({ system, messages = [] }) =>
    system || (messages.find(({ role }) => role === "system")?.content ?? "");

  /** What a request of a trace says of the knobs: the prompt is what is asked, messages the turns before it. */
  const settingsOf = (request) => ({
    ...parted(request),
    k: request.k,
    ...request.sampling,
    max_tokens: request.max_tokens,
    acceptor: request.acceptor,
    drafter: request.drafter,
    arms: request.arms,
    system: systemOf(request),
    chat_template: request.chat_template,
  });

  Object.assign(Playground, { SHELVED, asText, fromParameters, parted, settingsOf, systemOf, toParameters });
  if (typeof module !== "undefined") module.exports = Playground;
})();
