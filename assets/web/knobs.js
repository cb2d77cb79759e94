/* The knobs of the page, which are Gradio's, as one object: read for the address, set from it, from cards and from runs. */
(() => {
  const Playground = (globalThis.Playground ??= {});
  const { Conversation, SHELVED, fromParameters, toParameters } = Playground;

  const conversation = new Conversation(window.sessionStorage);

  let known = null; // {names, defaults, choices, k: {least, most, only}}
  let values = [];
  let apply = () => {};
  let after = null;
  let pending = null; // set, and not yet taken up: a page that is still starting hears no event
  const AGAIN_MS = 300;

  const within = (
    value,
    { least, most, only },
  ) => (only ? (only.includes(value) ? value : only[0]) : Math.min(most, Math.max(least, Math.round(value))));

  /** The values of all knobs, in the order of the components, with these settings in them. Unknown choices are left. */
  const merged = (settings, current) => {
    const now = Object.fromEntries(known.names.map((name, place) => [name, current[place]]));
    const { k, ...rest } = settings;
    if (k === "auto") now.auto = known.auto;
    else if (k !== undefined) Object.assign(now, { auto: false, k: within(k, known.k) });
    for (const [name, value] of Object.entries(rest)) {
      if (name in now && (known.choices[name]?.includes(value) ?? true)) now[name] = value;
    }
    return known.names.map((name) => now[name]);
  };

  const settings = (list = values) => {
    const { auto, ...rest } = Object.fromEntries(known.names.map((name, place) => [name, list[place]]));
    return { ...rest, k: auto ? "auto" : rest.k, messages: conversation.turns };
  };

  /** Press Run, again where the page was not yet listening. */
  const press = (tries = 20) => {
    const { store } = Playground;
    if (store.live || tries === 0) return;
    document.querySelector("#run")?.click();
    setTimeout(() => store.run.lines.length || press(tries - 1), AGAIN_MS);
  };

  /** The address's parameters that are not of the knobs. */
  const OTHERS = ["tab", "replay", "at", "present"];

  /** Called by js_on_load of the component that sets them. */
  Playground.mountKnobs = (props, trigger, settings_) => {
    known = settings_;
    values = known.names.map((name) => known.defaults[name]);
    apply = (wanted) => {
      pending = wanted;
      const ask = () => {
        if (pending !== wanted) return;
        props.value = wanted;
        trigger("apply");
        setTimeout(ask, AGAIN_MS);
      };
      ask();
    };
    const parameters = new URLSearchParams(location.search);
    const wanted = fromParameters(parameters, conversation.kept);
    conversation.set(wanted.messages ?? []);
    conversation.addEventListener("change", () => remember(values));
    if (parameters.get("run")) after = press;
    if (Object.keys(wanted).length || after) apply(wanted);
  };

  /** The knobs' event: what they become. */
  Playground.applied = (wanted, ...current) => {
    const list = merged(pending ?? wanted ?? {}, current);
    pending = null;
    const then = after;
    after = null;
    if (then) setTimeout(() => then(), 150); // Gradio sets the components after this returns
    remember(list);
    return list;
  };

  /** A knob has changed: the address follows, so that a refresh or a link gives it back. */
  const remember = (list) => {
    values = list;
    Playground.countSoon(list);
    const old = new URLSearchParams(location.search);
    const query = toParameters(settings(), { ...known.defaults, k: known.defaults.k });
    for (const name of OTHERS) if (old.has(name)) query.set(name, old.get(name));
    const text = query.toString();
    history.replaceState(history.state, "", text ? `?${text}` : location.pathname);
  };
  Playground.remember = (...list) => {
    if (known) remember(list);
  };

  /** Set the knobs; then, if asked, press Run. */
  const choose = (wanted, run = false) => {
    after = run ? press : null;
    conversation.set(wanted.messages ?? []);
    apply({ ...known.defaults, ...wanted });
  };

  /** Set some knobs and leave the others as they are. */
  const adjust = (wanted) => {
    after = null;
    apply(wanted);
  };

  /** What stands in the prompt. */
  const asking = () => settings().prompt;

  /** A link that gives these settings to whoever opens it; of the knobs as they are where none are given. */
  const linkOf = (wanted, more = {}) => {
    const query = toParameters(wanted ?? settings(), known?.defaults ?? {});
    if (query.get("turns") === SHELVED) throw new RangeError("too long for a link");
    for (const [name, value] of Object.entries(more)) query.set(name, value);
    return `${location.origin}${location.pathname}${query.size ? "?" : ""}${query}`;
  };

  Object.assign(Playground, {
    adjust,
    asking,
    choose,
    conversation,
    knobValues: () => values,
    knownKnobs: () => known,
    linkOf,
  });
})();
