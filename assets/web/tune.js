/* The Tune k tab follows the Playground: what was changed there since is taken over as the tab is opened, the rest is named. */
(() => {
  const Playground = (globalThis.Playground ??= {});

  const MAX_TOKENS = { least: 16, most: 512 };
  const REST = ["top_p", "top_k", "seed", "acceptor", "drafter", "system", "chat_template"];

  let followed = null; // the Playground's values when they were last looked at

  const restInWords = () => {
    const { names, defaults } = Playground.knownKnobs();
    const now = Object.fromEntries(names.map((name, place) => [name, Playground.knobValues()[place]]));
    const changed = REST.filter((name) => now[name] !== defaults[name]).map((name) =>
      name === "chat_template"
        ? "no chat template"
        : name === "system"
        ? `system prompt "${now.system}"`
        : `${name} ${now[name]}`
    );
    return `All else as in the Playground: ${changed.join(", ") || "its defaults"}.`;
  };

  /** Called as the tab is opened: the Playground's prompt, max tokens and temperature, then this tab's own. */
  Playground.followInTune = (prompt, maxTokens, temperature, ...own) => {
    const { defaults } = Playground.knownKnobs();
    followed ??= [defaults.prompt, defaults.max_tokens, defaults.temperature];
    const theirs = [prompt, maxTokens, temperature];
    const taken = [
      prompt.replace(/\s*\n\s*/g, " "), // here a line is a prompt
      Math.min(MAX_TOKENS.most, Math.max(MAX_TOKENS.least, maxTokens)),
      temperature,
    ];
    const values = own.map((value, place) => (theirs[place] === followed[place] ? value : taken[place]));
    followed = theirs;
    document.querySelector("#tune-rest").textContent = restInWords();
    return values;
  };
})();
